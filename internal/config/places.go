package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"go.yaml.in/yaml/v3"
)

// text is one file while its keys are located. A key's place is that of its
// name, an entry's that of its first letter.
type text struct {
	file   place
	body   []byte
	places map[string]place
	loader *loader
	nodes  int // of YAML that were walked
}

// mark notes where key stands; the first place counts.
func (t *text) mark(key string, offset int) {
	line, column := t.position(offset)
	t.markAt(key, line, column)
}

func (t *text) markAt(key string, line, column int) {
	if _, ok := t.places[key]; !ok {
		t.places[key] = t.at(line, column)
	}
}

func (t *text) at(line, column int) place {
	return place{t.file.source, t.file.order, line, column}
}

// position counts lines, and letters within the line, from 1.
func (t *text) position(offset int) (line, column int) {
	before := t.body[:min(offset, len(t.body))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1
}

// unreadable notes that the file has no values.
func (t *text) unreadable(line, column int, problem string) map[string]place {
	t.loader.unreadable = true
	t.loader.faultAt(t.at(line, column), "", problem)
	return t.places
}

// syntax is the place and the wording of a parser's error. Quoted pieces of
// the file are left out: they can be secrets written in the wrong place.
func (t *text) syntax(err error) (line, column int, problem string) {
	var inJSON *json.SyntaxError
	var ofJSON *json.UnmarshalTypeError
	var inTOML *toml.DecodeError
	switch {
	case errors.As(err, &inJSON):
		line, column = t.position(int(inJSON.Offset) - 1)
		return line, column, inJSON.Error()
	case errors.As(err, &ofJSON): // the whole file is a list or the like
		return 1, 1, "expected keys with values"
	case errors.As(err, &inTOML):
		line, column = inTOML.Position()
		return line, column, quoted.ReplaceAllString(inTOML.Error(), "a value")
	}
	message := quotedYAML.ReplaceAllString(err.Error(), "a value")
	if found := yamlLine.FindStringSubmatch(message); found != nil {
		line, err := strconv.Atoi(found[1])
		if err == nil {
			return line, 1, found[2]
		}
	}
	return 0, 0, strings.TrimPrefix(message, "yaml: ")
}

var (
	yamlLine = regexp.MustCompile(`(?s)^yaml: (?:unmarshal errors:\n\s*)?line (\d+): ([^\n]*)`)
	quoted   = regexp.MustCompile("`[^`]*`")
	// quotedYAML finds also what its parser quotes of names, which a secret that
	// begins with * is one of: 'name', "name". What it expects is one letter, or
	// has a space: ',' or ']'.
	quotedYAML = regexp.MustCompile("`[^`]*`|'[^' ]{2,}'|\"[^\"]*\"")
)

// maxNodes bounds the walk through aliases; the parser has its own bound and
// its own words for a file that goes beyond it.
const maxNodes = 1 << 17

// yaml locates the keys of a YAML file; false if it can't be read.
func (t *text) yaml() bool {
	d := yaml.NewDecoder(bytes.NewReader(t.body))
	var document, second yaml.Node
	switch err := d.Decode(&document); {
	case errors.Is(err, io.EOF):
		return true // nothing but comments
	case err != nil:
		t.unreadable(t.syntax(err))
		return false
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		// Parsers read the first document and say nothing of the others.
		line, column, problem := second.Line, second.Column, "expected one YAML document, got a second one"
		if err != nil {
			line, column, problem = t.syntax(err)
		}
		t.unreadable(line, column, problem)
		return false
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode && root.ShortTag() != "!!null" {
		t.unreadable(root.Line, root.Column, "expected keys with values")
		return false
	}
	before := len(t.loader.faults)
	t.yamlNode("", root)
	if len(t.loader.faults) > before {
		t.loader.unreadable = true // the parser refuses a key that stands twice
		return false
	}
	return true
}

func (t *text) yamlNode(key string, n *yaml.Node) {
	if t.nodes++; t.nodes > maxNodes {
		return
	}
	switch n.Kind {
	case yaml.AliasNode:
		t.yamlNode(key, n.Alias)
	case yaml.SequenceNode:
		for i, inner := range n.Content {
			t.markAt(entry(key, i), inner.Line, inner.Column)
			t.yamlNode(entry(key, i), inner)
		}
	case yaml.MappingNode:
		t.yamlMapping(key, n)
	}
}

// yamlMapping walks the keys that stand here before those merged in by <<,
// which they win over.
func (t *text) yamlMapping(key string, n *yaml.Node) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.ShortTag() == "!!merge" || name.Kind != yaml.ScalarNode {
			continue
		}
		path := join(key, name.Value)
		if line := first[name.Value]; line > 0 {
			t.loader.faultAt(t.at(name.Line, name.Column), path, fmt.Sprintf("written twice, first in line %d", line))
			continue
		}
		first[name.Value] = name.Line
		if value.ShortTag() == "!!null" {
			continue // as if it were not written
		}
		t.markAt(path, name.Line, name.Column)
		t.yamlNode(path, value)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].ShortTag() != "!!merge" {
			continue
		}
		merged := n.Content[i+1]
		if merged.Kind != yaml.SequenceNode {
			t.yamlNode(key, merged)
			continue
		}
		for _, inner := range merged.Content {
			t.yamlNode(key, inner)
		}
	}
}

// json locates the keys of a JSON file that is known to parse, and finds those
// that stand twice, of which the parser would take the last.
func (t *text) json() {
	t.jsonValue("", json.NewDecoder(bytes.NewReader(t.body)))
}

func (t *text) jsonValue(key string, d *json.Decoder) {
	token, err := d.Token()
	if err != nil {
		return
	}
	switch token {
	case json.Delim('{'):
		first := map[string]int{}
		for d.More() {
			offset := t.next(d)
			name, _ := d.Token()
			path := join(key, fmt.Sprint(name))
			line, column := t.position(offset)
			if before := first[fmt.Sprint(name)]; before > 0 {
				t.loader.faultAt(t.at(line, column), path, fmt.Sprintf("written twice, first in line %d", before))
			}
			first[fmt.Sprint(name)] = line
			if !bytes.HasPrefix(t.body[t.next(d):], []byte("null")) {
				t.markAt(path, line, column)
			}
			t.jsonValue(path, d)
		}
		_, _ = d.Token() // the closing brace
	case json.Delim('['):
		for i := 0; d.More(); i++ {
			t.mark(entry(key, i), t.next(d))
			t.jsonValue(entry(key, i), d)
		}
		_, _ = d.Token() // the closing bracket
	}
}

// next is where the next token begins.
func (t *text) next(d *json.Decoder) int {
	offset := int(d.InputOffset())
	return offset + len(t.body[offset:]) - len(bytes.TrimLeft(t.body[offset:], " \t\r\n,:"))
}

// toml locates the keys of a TOML file that is known to parse.
func (t *text) toml() {
	var p unstable.Parser
	p.Reset(t.body)
	table, entries := "", map[string]int{}
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = t.tomlHeader(e, entries)
		case unstable.KeyValue:
			t.tomlKeyValue(table, e)
		}
	}
}

// tomlHeader follows [a.b] and [[a.b]]; entries counts the latter by key.
func (t *text) tomlHeader(e *unstable.Node, entries map[string]int) string {
	path, last := "", 0
	for it := e.Key(); it.Next(); {
		path = join(path, string(it.Node().Data))
		last = int(it.Node().Raw.Offset)
		t.mark(path, last)
		if n := entries[path]; n > 0 && !(it.IsLast() && e.Kind == unstable.ArrayTable) {
			path = entry(path, n-1)
		}
	}
	if e.Kind == unstable.ArrayTable {
		entries[path]++
		path = entry(path, entries[path]-1)
		t.mark(path, last)
	}
	return path
}

func (t *text) tomlKeyValue(path string, e *unstable.Node) {
	for it := e.Key(); it.Next(); {
		path = join(path, string(it.Node().Data))
		t.mark(path, int(it.Node().Raw.Offset))
	}
	t.tomlValue(path, e.Value())
}

func (t *text) tomlValue(path string, value *unstable.Node) {
	i := 0
	for it := value.Children(); it.Next(); {
		switch inner := it.Node(); {
		case value.Kind == unstable.InlineTable:
			t.tomlKeyValue(path, inner)
		case value.Kind == unstable.Array:
			if inner.Raw.Length > 0 {
				t.mark(entry(path, i), int(inner.Raw.Offset))
			}
			t.tomlValue(entry(path, i), inner)
			i++
		}
	}
}
