package wso2

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is a deployment.toml: its values, and the line that each of them
// stands in, by its path.
type document struct {
	values map[string]any
	lines  map[string]int
}

// read parses TOML. An error says where, and nothing of what stands there: it
// may be a password.
func read(body []byte) (document, error) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) // some editors begin files with it
	d := document{lines: map[string]int{}}
	err := toml.Unmarshal(body, &d.values)
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, column := at.Position()
		return d, fmt.Errorf("%d:%d: expected TOML", line, column)
	}
	if err != nil {
		return d, errors.New("1:1: expected TOML")
	}
	d.locate(body)
	return d, nil
}

// locate notes the line of every key of a text that is known to parse.
func (d document) locate(body []byte) {
	var p unstable.Parser
	p.Reset(body)
	above, entries := "", map[string]int{}
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			above = d.locateHeader(body, e, entries)
		case unstable.KeyValue:
			d.locateKey(body, above, e)
		}
	}
}

// locateHeader follows [a.b] and [[a.b]]; entries counts the latter by path.
func (d document) locateHeader(body []byte, e *unstable.Node, entries map[string]int) string {
	path := ""
	for it := e.Key(); it.Next(); {
		path = join(path, string(it.Node().Data))
		d.mark(body, path, it.Node())
		if n := entries[path]; n > 0 && !(it.IsLast() && e.Kind == unstable.ArrayTable) {
			path = entry(path, n-1)
		}
		if it.IsLast() && e.Kind == unstable.ArrayTable {
			entries[path]++
			path = entry(path, entries[path]-1)
			d.mark(body, path, it.Node())
		}
	}
	return path
}

func (d document) locateKey(body []byte, path string, e *unstable.Node) {
	for it := e.Key(); it.Next(); {
		path = join(path, string(it.Node().Data))
		d.mark(body, path, it.Node())
	}
	d.locateValue(body, path, e.Value())
}

func (d document) locateValue(body []byte, path string, value *unstable.Node) {
	n := 0
	for it := value.Children(); it.Next(); {
		switch inner := it.Node(); value.Kind {
		case unstable.InlineTable:
			d.locateKey(body, path, inner)
		case unstable.Array:
			d.locateValue(body, entry(path, n), inner)
			n++
		}
	}
}

// mark notes the line of a key; the first one counts.
func (d document) mark(body []byte, path string, key *unstable.Node) {
	if _, ok := d.lines[path]; !ok {
		d.lines[path] = 1 + bytes.Count(body[:min(int(key.Raw.Offset), len(body))], []byte("\n"))
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func entry(path string, n int) string { return fmt.Sprintf("%s[%d]", path, n) }

// table is one table of a document.
type table struct {
	document
	path   string
	values map[string]any
}

// root is the document as a table.
func (d document) root() table { return table{d, "", d.values} }

// line is where a key stands, or what is nearest above it; 0 for nowhere.
func (t table) line(key string) int {
	for path := join(t.path, key); path != ""; {
		if line := t.lines[path]; line > 0 {
			return line
		}
		end := strings.LastIndexAny(path, ".[")
		if end < 0 {
			break
		}
		path = path[:end]
	}
	return t.lines[t.path]
}

// find is the value behind a key, which may have dots between levels: those
// of tables, or written into one quoted key. nil for none.
func (t table) find(key string) any {
	if value, ok := t.values[key]; ok {
		return value
	}
	first, rest, dotted := strings.Cut(key, ".")
	if inner, ok := t.values[first].(map[string]any); ok && dotted {
		return table{values: inner}.find(rest)
	}
	return nil
}

// table is the table behind a key; one without values where there is none.
func (t table) table(key string) table {
	inner, _ := t.find(key).(map[string]any)
	return table{t.document, join(t.path, key), inner}
}

// tables are the entries of a list of tables, however they are written; false
// where the key has something else.
func (t table) tables(key string) (all []table, ok bool) {
	value := t.find(key)
	if value == nil {
		return nil, true
	}
	list, ok := value.([]any)
	if !ok {
		return nil, false
	}
	for n, one := range list {
		values, ok := one.(map[string]any)
		if !ok {
			return nil, false
		}
		all = append(all, table{t.document, entry(join(t.path, key), n), values})
	}
	return all, true
}

// names are the keys in a table, in order.
func (t table) names() []string { return slices.Sorted(maps.Keys(t.values)) }

// leaves are the paths of all values beneath a table that are no tables.
func (t table) leaves() (paths []string) {
	for _, key := range t.names() {
		if inner := t.table(key); len(inner.values) > 0 {
			for _, path := range inner.leaves() {
				paths = append(paths, join(key, path))
			}
			continue
		}
		paths = append(paths, key)
	}
	return paths
}
