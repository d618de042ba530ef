package claims_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
)

func TestDecodeRefuses(t *testing.T) {
	nested := func(n int) string {
		return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	for name, text := range map[string]string{
		"JWT-02 an array":               `[]`,
		"JWT-02 row 6 null":             `null`,
		"JWT-02 nothing":                ``,
		"JWT-02 a string":               `"x"`,
		"JWT-02 row 15 duplicate names": `{"a":1,"a":1}`,
		"JWT-02 row 15 duplicate names, one of them coded": `{"sub":"a","s\u0075b":"b"}`,
		"JWT-02 row 15 duplicate names inside":             `{"a":{"b":1,"b":2}}`,
		"JWT-02 row 10 a second object":                    `{"a":1}{"a":2}`,
		"JWT-02 row 10 garbage behind":                     `{"a":1}x`,
		"JWT-02 row 16 invalid UTF-8":                      "{\"a\":\"\xff\"}",
		"JWT-02 row 16 invalid UTF-8 in a name":            "{\"\xff\":1}",
		"JWT-02 row 16 half a surrogate pair":              `{"a":"\ud800"}`,
		"JWT-02 byte order mark":                           "\ufeff{}",
		"JWT-02 row 21 33 levels":                          nested(33),
		"JWT-02 row 21 9,990 levels":                       nested(9990),
		"JWT-02 a comma too many":                          `{"a":1,}`,
		"JWT-02 a single-quoted name":                      `{'a':1}`,
		"JWT-02 cut off":                                   `{"a":1`,
		"513 members":                                      `{` + members(513) + `}`,
	} {
		if set, err := claims.Decode([]byte(text)); err == nil {
			t.Errorf("%s: got %v, want an error, for %.60q", name, set, text)
		}
	}
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"c` + strings.Repeat("x", i) + `":0`)
	}
	return b.String()
}

func TestDecodeKeepsWhatWasSigned(t *testing.T) {
	set, err := claims.Decode([]byte(" { \"n\" : 9007199254740993 , \"ISS\":\"x\", \"iss\":\"https:\\/\\/a\", \"o\": { \"a\" : [ 1 , \"b c\" ] } , \"cla\\u0069m\": true }\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"n":     "9007199254740993", // OUT-12, T7, row 23
		"ISS":   `"x"`,              // T6, row 4: names are exact
		"iss":   `"https:\/\/a"`,
		"o":     `{"a":[1,"b c"]}`,
		"claim": "true",
	} {
		if got, _ := set.Find(name); string(got) != want {
			t.Errorf("member %s: got %s, want %s", name, got, want)
		}
	}
	if set.Has("Iss") {
		t.Error("T6 a name was found under another case")
	}
	if s, ok := claims.String(set[2].Value); !ok || s != "https://a" {
		t.Errorf("got %q %t, want the decoded iss", s, ok)
	}
	if claims.MaxDepth != 32 {
		t.Error("the contract says 32 levels")
	}
}

func TestStrings(t *testing.T) {
	if got, ok := claims.Strings([]byte(`["a","b\n"]`)); !ok || len(got) != 2 || got[1] != "b\n" {
		t.Errorf("got %q %t", got, ok)
	}
	for _, v := range []string{`"a"`, `{}`, `1`, `["a",1]`, `[null]`} {
		if got, ok := claims.Strings([]byte(v)); ok {
			t.Errorf("%s: got %q, want a refusal", v, got)
		}
	}
}

func TestElements(t *testing.T) {
	for text, want := range map[string]string{
		`[]`: ``, `[1]`: `1`, `[null,true,-1.5e3]`: `null|true|-1.5e3`, `["a","b,]}","\"","\\\\"]`: `"a"|"b,]}"|"\""|"\\\\"`,
		`[{"a":[1,{"b":"]"}]},[],[[2]],{}]`: `{"a":[1,{"b":"]"}]}|[]|[[2]]|{}`,
	} {
		var got []string
		if !claims.Elements([]byte(text), func(v jsontext.Value) { got = append(got, string(v)) }) || strings.Join(got, "|") != want {
			t.Errorf("%s: got %q, want %s", text, got, want)
		}
	}
	for _, v := range []string{``, `[`, `{}`, `"a"`, `1`, `null`, `[1`, `["a`, `[,1]`, `["a\`, `[[]`, `[1,`} {
		if claims.Elements([]byte(v), func(jsontext.Value) {}) {
			t.Errorf("%s: got an array", v)
		}
	}
}

// What is read of an array is what a decoder reads, and anything may be tried.
func FuzzElements(f *testing.F) {
	f.Add([]byte(`["a",{"b":[1,"\\"]},[],null,-1e5]`))
	f.Add([]byte(`[1,`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got []string
		claims.Elements(text, func(v jsontext.Value) { got = append(got, string(v)) }) // must not panic
		set, err := claims.Decode([]byte(`{"v":` + string(text) + `}`))
		if err != nil || len(set) != 1 {
			return // no value of a member
		}
		v := set[0].Value
		got = nil
		ok := claims.Elements(v, func(e jsontext.Value) { got = append(got, string(e)) })
		if ok != (v.Kind() == '[') {
			t.Fatalf("%s: an array: got %t", v, ok)
		}
		if ok && "["+strings.Join(got, ",")+"]" != string(v) {
			t.Fatalf("%s: got %q", v, got)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"iss":"a","aud":["b"],"n":1e400,"o":{"x":null}}`))
	f.Add([]byte(`{"a":1}{"b":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := claims.Decode(text)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, m := range set {
			if seen[m.Name] {
				t.Fatalf("duplicate member %q", m.Name)
			}
			seen[m.Name] = true
			if !m.Value.IsValid() {
				t.Fatalf("member %q: invalid value %q", m.Name, m.Value)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"iss":"https://idp.example/realms/corp","sub":"5f0c3b1e-7f6c-4f0a-9d51-0d8a8f2b6f11","aud":["https://api.example/orders","account"],"exp":4102444800,"iat":1767225600,"nbf":1767225600,"jti":"0d8a8f2b","azp":"orders-app","scope":"openid read write","realm_access":{"roles":["offline_access","user"]},"email_verified":true,"preferred_username":"alice"}`)
	buf := make([]byte, len(text))
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, text)
		if _, err := claims.Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}
