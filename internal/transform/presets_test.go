package transform_test

import (
	"slices"
	"strings"
	"testing"

	"introspectd/internal/transform"
)

func nothingWritten(string) bool { return false }

func TestPresets(t *testing.T) {
	all := transform.Presets()
	for _, name := range transform.PresetName("").Values() {
		if _, ok := all[transform.PresetName(name)]; ok != (name != "") {
			t.Errorf("preset %q: got %t", name, ok)
		}
	}
	if len(all) != 8 {
		t.Errorf("got %d presets, want 8", len(all))
	}
	for name, preset := range all {
		c, changed := transform.Config{Preset: name}.WithPreset(nothingWritten)
		if got := faults(c); got != nil || len(changed) == 0 {
			t.Errorf("%s: got faults %q, changes %q", name, got, changed)
		}
		if preset.Require != nil && (!slices.Contains(preset.Require, "exp") || !slices.Contains(preset.Require, "iss")) {
			t.Errorf("%s requires %q: exp and iss can't be left out", name, preset.Require)
		}
	}
	if got := len(all["wso2"].Map); got != 25 {
		t.Errorf("wso2: got %d rows, want those of its table, 26 with one target named twice", got)
	}
	if c, changed := (transform.Config{Preset: "unknown"}).WithPreset(nothingWritten); changed != nil || c.PresetRules != nil {
		t.Errorf("an unknown preset: got %+v, %q", c, changed)
	}
}

func TestWhatIsWrittenWinsOverThePreset(t *testing.T) {
	own := transform.Config{
		Preset: "cognito", Scope: []string{"a"}, ClientID: []string{"b"}, Username: []string{"c"},
		Map:   []transform.Rename{{RemoteClaim: "d", LocalClaim: "e"}},
		Rules: []transform.Rule{{Set: "aud", Value: `"mine"`}}, AllowReserved: []string{"aud"},
	}
	c, changed := own.WithPreset(func(string) bool { return true })
	if c.Scope[0] != "a" || c.ClientID[0] != "b" || c.Username[0] != "c" || c.Map[0].LocalClaim != "e" || len(c.Rules) != 1 {
		t.Errorf("got %+v, want what was written", c)
	}
	if len(c.PresetRules) != 2 || len(changed) != 2 {
		t.Errorf("got rules %+v and changes %q: rules of one's own don't let an ID token in", c.PresetRules, changed)
	}
	rules := transform.New(c)
	got, problem := rules.Apply(decode(t, `{"token_use":"access","client_id":"x"}`))
	if problem != nil || !strings.Contains(shown(got.Claims), `aud="mine"`) {
		t.Errorf("got %s %+v, want the own rule after the preset's", shown(got.Claims), problem)
	}
	_, problem = rules.Apply(decode(t, `{"token_use":"id","client_id":"x"}`))
	if problem == nil || problem.Note != "preset cognito rules[0]: token_use is not access" {
		t.Errorf("got %+v, want the preset's rule named", problem)
	}
}
