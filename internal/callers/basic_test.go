package callers_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"introspectd/internal/callers"
)

// oauth4webapi form-encodes and writes these besides, as RFC 6749 appendix B
// is read strictly.
var oauth4webapi = strings.NewReplacer("-", "%2D", "_", "%5F", ".", "%2E", "!", "%21", "~", "%7E", "*", "%2A", "'", "%27", "(", "%28", ")", "%29")

var clients = []struct {
	name  string
	spell func(string) string
}{
	{"Authlib and django-oauth-toolkit (raw)", func(s string) string { return s }},
	{"mod_auth_openidc and zitadel (form-encoded)", url.QueryEscape},
	{"oauth4webapi (form-encoded, - as %2D)", func(s string) string { return oauth4webapi.Replace(url.QueryEscape(s)) }},
	{"lower-case hex", func(s string) string { return lowerHex(url.QueryEscape(s)) }},
	{"percent-encoded, space as %20", func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }},
	{"skipper (percent-encoded with a literal +)", func(s string) string {
		return strings.NewReplacer("+", "%20", "%2B", "+").Replace(url.QueryEscape(s))
	}},
}

func TestBasicSpellings(t *testing.T) {
	pairs := []struct{ id, secret string }{
		{"orders-backend", rightSecret},
		{"orders backend", "a secret with spaces in it"},
		{"orders+backend", "a+secret+with+plus+signs"},
		{"50%", "100%-a-secret-of-percents-%"},
		{"a%2Bb", "a-secret-with-%2B-and-%20-in-it"},
		{"urn:example:app", "a:secret:with:many:colons:"},
		{"https://client.example/app?x=1+2", "both : % + - and space, and %zz"},
		{"utf-8", "пароль-naïve-密码-длинный-🔑"},
	}
	for _, p := range pairs {
		t.Run("INT-17 "+p.id, func(t *testing.T) {
			cs := compile(t, newClock(), caller(p.id, secrets(nextSecret, p.secret)), caller("other", secrets(wrongSecret)))
			for _, id := range clients {
				for _, secret := range clients {
					line := basic(id.spell(p.id) + ":" + secret.spell(p.secret))
					a, refused := cs.Authenticate(header(line))
					if refused != nil || a.ID != p.id {
						t.Errorf("id %s, secret %s: %s:%s = %+v, %+v, want %q", id.name, secret.name, id.spell(p.id), secret.spell(p.secret), a, refused, p.id)
					}
				}
			}
			a, refused := cs.Authenticate(header(basic(p.id + ":" + p.secret + "x")))
			if refused == nil {
				t.Errorf("a wrong secret authenticated as %+v", a)
			}
			expect(t, cs, post(p.id, p.secret), p.id, callers.ClientSecretPost, nil)
		})
	}

	t.Run("INT-17 post is compared as it is", func(t *testing.T) {
		cs := compile(t, newClock(), caller("a b", secrets("a secret with spaces in it")))
		for _, c := range []callers.Credentials{
			post("a+b", "a secret with spaces in it"),
			post("a%20b", "a secret with spaces in it"),
			post("a b", "a+secret+with+spaces+in+it"),
			post("a b", "a%20secret with spaces in it"),
		} {
			if a, refused := cs.Authenticate(c); refused == nil {
				t.Errorf("%q, %q authenticated as %q, want refused", c.ClientID, c.ClientSecret, a.ID)
			}
		}
	})

	t.Run("INT-17 a secret encoded twice is another secret", func(t *testing.T) {
		cs := compile(t, newClock(), caller("a", secrets(rightSecret)))
		twice := strings.ReplaceAll(rightSecret, "-", "%252D")
		if a, refused := cs.Authenticate(header(basic("a:" + twice))); refused == nil {
			t.Errorf("%q authenticated as %q, want refused", twice, a.ID)
		}
	})

	t.Run("INT-17 an id that begins like another", func(t *testing.T) {
		cs := compile(t, newClock(), caller("urn", secrets("app:"+rightSecret)), caller("urn:app", secrets(nextSecret)))
		expect(t, cs, header(basic("urn:app:"+rightSecret)), "urn", callers.ClientSecretBasic, nil)
		expect(t, cs, header(basic("urn:app:"+nextSecret)), "urn:app", callers.ClientSecretBasic, nil)
	})

	t.Run("INT-16 the form settles where the id ends", func(t *testing.T) {
		cs := compile(t, newClock(), caller("urn:app", secrets(rightSecret)), caller("other", secrets(nextSecret)))
		expect(t, cs, with(header(basic("urn:app:"+rightSecret)), clientID("urn:app")), "urn:app", callers.ClientSecretBasic, nil)
		expect(t, cs, with(header(basic("urn:app:"+rightSecret)), clientID("urn")), "", "", &callers.Refusal{Status: 401, Code: "invalid_client", Challenges: []string{`Basic realm="introspectd"`}})
		expect(t, cs, with(header(basic("urn:app:"+rightSecret)), clientID("other")), "", "", &callers.Refusal{Status: 400, Code: "invalid_request"})
	})
}

func TestAnySpellingOfAnyCredentialAuthenticates(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab2BF%+-: ")), 1, 30, -1)
		id := "i" + text.Draw(r, "id") + "d"
		if strings.Count(id, ":") > 15 {
			r.Skip("more colons than an id may hold")
		}
		secret := text.Draw(r, "secret")
		c := clients[rapid.IntRange(0, len(clients)-1).Draw(r, "client")]
		cs := compile(t, newClock(), caller(id, secrets(secret)))
		a, refused := cs.Authenticate(header(basic(c.spell(id) + ":" + c.spell(secret))))
		if refused != nil || a.ID != id {
			r.Errorf("%s spelled %q:%q and got %+v, %+v", c.name, c.spell(id), c.spell(secret), a, refused)
		}
	})
}

// lowerHex writes %2D as %2d and leaves letters alone.
func lowerHex(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			fmt.Fprintf(&b, "%%%s", strings.ToLower(s[i+1:i+3]))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
