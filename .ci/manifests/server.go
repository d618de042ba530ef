package main

import (
	"context"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	custom "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metadata "k8s.io/apimachinery/pkg/api/validation"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	limits "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsv1 "k8s.io/kubernetes/pkg/apis/apps/install"
	appsrules "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	autoscalingv2 "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	autoscalingrules "k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1 "k8s.io/kubernetes/pkg/apis/core/install"
	corerules "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	networkingv1 "k8s.io/kubernetes/pkg/apis/networking/install"
	networkingrules "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	policyv1 "k8s.io/kubernetes/pkg/apis/policy/install"
	policyrules "k8s.io/kubernetes/pkg/apis/policy/validation"
	"sigs.k8s.io/yaml"
)

// What an API server asks of a document that no JSON Schema says: by its own
// code, with its defaults filled in first, as if the document were created now.

// server knows Kubernetes' own kinds.
type server struct{ native runtime.Decoder }

func newServer() server {
	kinds := runtime.NewScheme()
	for _, install := range []func(*runtime.Scheme){corev1.Install, appsv1.Install, autoscalingv2.Install, networkingv1.Install, policyv1.Install} {
		install(kinds)
	}
	return server{serializer.NewCodecFactory(kinds).UniversalDecoder()}
}

// refusals are what it says; defined is nil for one of Kubernetes' own kinds.
func (s server) refusals(text []byte, defined *definition) (said []string, err error) {
	text, err = yaml.YAMLToJSON(text)
	if err != nil {
		return nil, err
	}
	var found field.ErrorList
	if defined != nil {
		found, err = customRefusals(text, *defined)
	} else {
		found, err = s.nativeRefusals(text)
	}
	for _, f := range found {
		said = append(said, f.Error())
	}
	return said, err
}

// customRefusals are those by the schema, the rules in CEL that stand in it, and
// lists that are sets.
func customRefusals(text []byte, defined definition) (field.ErrorList, error) {
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	var own apiextensions.JSONSchemaProps
	if err := extensions.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(defined.schema, &own, nil); err != nil {
		return nil, err
	}
	shape, err := structural.NewStructural(&own)
	if err != nil {
		return nil, err
	}
	defaulting.Default(doc, shape)
	fields, _, err := custom.NewSchemaValidator(&own)
	if err != nil {
		return nil, err
	}
	object := unstructured.Unstructured{Object: doc}
	placed(&object, defined.namespaced)
	found := metadata.ValidateObjectMetaAccessor(&object, defined.namespaced, metadata.NameIsDNSSubdomain, field.NewPath("metadata"))
	found = append(found, custom.ValidateCustomResource(nil, doc, fields)...)
	found = append(found, listtype.ValidateListSetsAndMaps(nil, shape, doc)...)
	if rules := cel.NewValidator(shape, true, limits.PerCallLimit); rules != nil {
		broken, _ := rules.Validate(context.Background(), nil, shape, doc, nil, limits.RuntimeCELCostBudget)
		found = append(found, broken...)
	}
	return found, nil
}

// nativeRefusals are those of the kinds that we have.
func (s server) nativeRefusals(text []byte) (field.ErrorList, error) {
	decoded, _, err := s.native.Decode(text, nil, nil)
	if err != nil {
		return nil, err
	}
	if object, ok := decoded.(meta.Object); ok {
		placed(object, true)
	}
	switch object := decoded.(type) {
	case *core.ConfigMap:
		return corerules.ValidateConfigMap(object), nil
	case *core.Service:
		if ip := object.Spec.ClusterIP; ip != "" {
			object.Spec.ClusterIPs = []string{ip} // by the server, before it looks
		}
		return corerules.ValidateServiceCreate(object), nil
	case *core.ServiceAccount:
		return corerules.ValidateServiceAccount(object), nil
	case *apps.Deployment:
		return appsrules.ValidateDeployment(object, pod.GetValidationOptionsFromPodTemplate(&object.Spec.Template, nil)), nil
	case *autoscaling.HorizontalPodAutoscaler:
		return autoscalingrules.ValidateHorizontalPodAutoscaler(object, autoscalingrules.HorizontalPodAutoscalerSpecValidationOptions{MinReplicasLowerBound: 1}), nil
	case *networking.NetworkPolicy:
		return networkingrules.ValidateNetworkPolicy(object, networkingrules.NetworkPolicyValidationOptions{}), nil
	case *networking.Ingress:
		return networkingrules.ValidateIngressCreate(object), nil
	case *policy.PodDisruptionBudget:
		return policyrules.ValidatePodDisruptionBudget(object, policyrules.PodDisruptionBudgetValidationOptions{}), nil
	}
	return nil, fmt.Errorf("%T: nothing here validates that", decoded)
}

// placed names the namespace that a client would have named.
func placed(object meta.Object, namespaced bool) {
	if namespaced && object.GetNamespace() == "" {
		object.SetNamespace(meta.NamespaceDefault)
	}
}
