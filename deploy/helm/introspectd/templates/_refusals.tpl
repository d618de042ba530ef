{{- /*
What would run and be wrong. Everything else about the configuration is for
`introspectd check` and for the pod's start to say.
*/}}
{{- define "introspectd.refusals" -}}
{{- $several := gt (int (include "introspectd.replicas" .)) 1 }}
{{- $revokers := list }}
{{- range .Values.config.callers }}
{{- if or .clients (has "revoke" (.may | default list)) (has "revoke_broad" (.may | default list)) }}
{{- $revokers = append $revokers .id }}
{{- end }}
{{- end }}
{{- if and $revokers (not .Values.config.redis) }}
{{- if $several }}
{{- fail (printf "config.callers: %s may revoke, and there are %s replicas without config.redis: each would know of its own revocations alone. Set config.redis, or replicaCount: 1 with state.existingClaim and no autoscaling." (join ", " $revokers) (include "introspectd.replicas" .)) }}
{{- end }}
{{- if not (and .Values.state.enabled .Values.state.existingClaim) }}
{{- fail (printf "config.callers: %s may revoke, and nothing keeps that beyond the pod: set config.redis or state.existingClaim." (join ", " $revokers)) }}
{{- end }}
{{- end }}
{{- if and $several .Values.state.enabled .Values.state.existingClaim }}
{{- fail "state.existingClaim is for one replica: a state file has one writer." }}
{{- end }}
{{- if and .Values.tls.secretName .Values.tls.terminatedUpstream }}
{{- fail "tls: expected secretName or terminatedUpstream, not both." }}
{{- end }}
{{- if not (or .Values.tls.secretName .Values.tls.terminatedUpstream) }}
{{- fail "tls: expected secretName, or terminatedUpstream: true where a mesh or gateway in front ends TLS." }}
{{- end }}
{{- if lt (int .Values.terminationGracePeriodSeconds) (add (int .Values.shutdownDelaySeconds) 26 | int) }}
{{- fail (printf "terminationGracePeriodSeconds: expected at least %d, which is shutdownDelaySeconds and 26 more: what is still answered then would be killed." (add (int .Values.shutdownDelaySeconds) 26)) }}
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- fail (printf "autoscaling: expected maxReplicas to be at least minReplicas, got %d and %d: the cluster would refuse it after all the rest was made." (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- end }}
{{- range $key := list "listen" "admin" "metrics" "tls" "tls_terminated_upstream" "shutdown_delay" "ext_authz_grpc" }}
{{- if hasKey ($.Values.config.server | default dict) $key }}
{{- fail (printf "config.server.%s is the chart's to write." $key) }}
{{- end }}
{{- end }}
{{- if .Values.config.state }}
{{- fail "config.state is the chart's to write: see state." }}
{{- end }}
{{- if .Values.config.include }}
{{- fail "config.include: there is one file here." }}
{{- end }}
{{- end }}

{{- define "introspectd.config" -}}
{{- include "introspectd.refusals" . }}
{{- $server := dict "listen" ":8080" "admin" "127.0.0.1:8081" "metrics" ":8082" "shutdown_delay" (printf "%ds" (int .Values.shutdownDelaySeconds)) }}
{{- if .Values.extAuthzGRPC }}
{{- $_ := set $server "ext_authz_grpc" ":9191" }}
{{- end }}
{{- if .Values.tls.secretName }}
{{- $_ := set $server "tls" (dict "certificate" "/run/tls/tls.crt" "key" "/run/tls/tls.key") }}
{{- else }}
{{- $_ := set $server "tls_terminated_upstream" true }}
{{- end }}
{{- $config := mergeOverwrite (deepCopy .Values.config) (dict "server" $server) }}
{{- if .Values.state.enabled }}
{{- $_ := set $config "state" (dict "path" "/var/lib/introspectd/state") }}
{{- end }}
{{- toYaml $config }}
{{- end }}
