package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// goal is one promise about speed, as it was found.
type goal struct {
	ID   string  `json:"goal"`
	Text string  `json:"text"`
	Want float64 `json:"want"`
	// AtLeast: more is better; otherwise less is.
	AtLeast bool    `json:"at_least"`
	Got     float64 `json:"got"`
	Held    bool    `json:"held"`
	Unit    string  `json:"unit,omitempty"` // empty: a ratio
}

func atLeast(id, text string, want, got float64) goal {
	return goal{ID: id, Text: text, Want: want, AtLeast: true, Got: got, Held: got >= want}
}

func atMost(id, text string, want, got float64) goal {
	return goal{ID: id, Text: text, Want: want, Got: got, Held: got <= want}
}

func (g goal) in(unit string) goal {
	g.Unit = unit
	return g
}

// figures are what a run has shown.
type figures struct {
	Date     time.Time `json:"date"`
	Machine  string    `json:"machine"`
	Command  string    `json:"command"`
	Sections []section `json:"sections"`
}

// wrong says whether any answer was: then the figures mean nothing.
func (f *figures) wrong() bool {
	for _, s := range f.Sections {
		for _, l := range s.Figures {
			if l.Wrong > 0 {
				return true
			}
		}
	}
	return false
}

// write prints the tables, then the goals.
func (f *figures) write(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%s, %s\n%s\n", f.Date.Format(time.DateOnly), f.Machine, f.Command)
	goals := [][]string{{"goal", "", "want", "got", ""}}
	for _, s := range f.Sections {
		if len(s.Figures) > 0 {
			fmt.Fprintf(&out, "\n%s\n", s.Mode)
			columns(&out, laneRows(s.Figures))
		}
		for _, note := range s.Notes {
			fmt.Fprintf(&out, "  %s\n", note)
		}
		for _, g := range s.Goals {
			goals = append(goals, g.row())
		}
	}
	if len(goals) > 1 {
		out.WriteByte('\n')
		columns(&out, goals)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (g goal) row() []string {
	sign, held := "≤", "HELD"
	if g.AtLeast {
		sign = "≥"
	}
	if !g.Held {
		held = "NOT HELD"
	}
	show := func(v float64) string { return strings.TrimSpace(fmt.Sprintf("%.2f %s", v, g.Unit)) }
	return []string{g.ID, g.Text, sign + " " + show(g.Want), show(g.Got), held}
}

func laneRows(all []*figure) [][]string {
	// A mode that tells no lane's CPU apart has no columns for it.
	server := slices.ContainsFunc(all, func(f *figure) bool { return len(f.CPURounds) > 0 })
	line := func(lane string, cpu, others []string, rss string, counts ...string) []string {
		if !server {
			return slices.Concat([]string{lane}, others, counts)
		}
		return slices.Concat([]string{lane}, cpu, others, []string{rss}, counts)
	}
	rows := [][]string{line("lane", []string{"CPU µs/req", "rounds"}, []string{"req/s", "p50 µs", "p90", "p99", "p99.9", "max"}, "RSS MiB", "requests", "wrong")}
	for _, f := range all {
		low, high := bounds(f.CPURounds)
		others := []string{fmt.Sprintf("%.0f", f.PerSec)}
		for _, us := range []int64{f.Latency.P50, f.Latency.P90, f.Latency.P99, f.Latency.P999, f.Latency.Max} {
			others = append(others, fmt.Sprint(us))
		}
		cpu := []string{fmt.Sprintf("%.1f", f.CPU), fmt.Sprintf("%.1f–%.1f", low, high)}
		rows = append(rows, line(f.Lane, cpu, others, fmt.Sprintf("%.0f", float64(f.RSS)/(1<<20)), fmt.Sprint(f.Requests), fmt.Sprint(f.Wrong)))
		if f.Example != "" {
			rows = append(rows, []string{"  WRONG: " + f.Example})
		}
	}
	return rows
}

func bounds(of []float64) (low, high float64) {
	for i, v := range of {
		if i == 0 {
			low, high = v, v
		}
		low, high = min(low, v), max(high, v)
	}
	return low, high
}

// columns writes rows of cells in columns: words flush left, numbers right. A
// row of one cell is a line.
func columns(out *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			if len(row) > 1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			padding := strings.Repeat(" ", max(widths[i]-utf8.RuneCountInString(cell), 0))
			if first, _ := utf8.DecodeRuneInString(rows[len(rows)-1][min(i, len(rows[len(rows)-1])-1)]); i > 0 && first >= '0' && first <= '9' {
				line.WriteString(padding + cell + "  ")
				continue
			}
			line.WriteString(cell + padding + "  ")
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// save writes what is wanted in files.
func (f *figures) save(asJSON, asSVG string) error {
	var errs []error
	if asJSON != "" {
		text, err := json.MarshalIndent(f, "", "  ")
		errs = append(errs, err, os.WriteFile(asJSON, append(text, '\n'), 0o600))
	}
	if asSVG != "" {
		err := errors.New("there is nothing to plot: what was measured has no lanes")
		if len(f.lanes()) > 0 {
			err = os.WriteFile(asSVG, []byte(plot(f)), 0o600)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
