package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// report is what a run has shown, in the order of its steps.
type report struct {
	Date     time.Time         `json:"date"`
	Machine  string            `json:"machine"`
	Settings map[string]string `json:"settings"`
	Rows     []*row            `json:"steps"`
}

// row is what was measured in one step. Latencies are microseconds.
type row struct {
	Step     string  `json:"step"`
	Seconds  float64 `json:"seconds"`
	Requests uint64  `json:"requests"`
	// Wrong answers took a bad token for good, a good one for bad, or told of
	// another token.
	Wrong uint64 `json:"wrong"`
	// Refused are answers of 500 and above.
	Refused uint64 `json:"status_5xx"`
	// Lost are requests without an answer, and answers that are neither of
	// these nor 200.
	Lost  uint64  `json:"lost"`
	First latency `json:"first_second_us"`
	After latency `json:"after_us"`
	// CPU is that of all replicas per request, in microseconds.
	CPU float64 `json:"cpu_us_per_request"`
	// RSS is the resident memory of the largest replica, in bytes.
	RSS int64 `json:"rss_bytes"`
	// RedisHits are verdicts found in Redis, per thousand requests.
	RedisHits float64 `json:"redis_hits_per_thousand"`
	// Notes are what else was seen, Broken what must not be, Examples some of
	// the answers that should not have been.
	Notes    []string `json:"notes,omitempty"`
	Broken   []string `json:"broken,omitempty"`
	Examples []string `json:"examples,omitempty"`

	promise   promise
	recording *recording
	cpu       time.Duration
	redisHits float64
}

type latency struct {
	Count uint64 `json:"count"`
	P50   int64  `json:"p50"`
	P99   int64  `json:"p99"`
	Max   int64  `json:"max"`
}

// promise is what has to hold in a step besides that no answer is wrong and
// none is a 5xx.
type promise struct {
	// mayLose permits that requests on their way are lost.
	mayLose bool
	// first and after bound what p99 has grown by against the baseline; 0 is
	// no bound. They are goals: what is over is shown, and fails nothing.
	first, after time.Duration
}

func latencyOf(h *histogram) latency {
	return latency{h.total(), h.quantile(0.5).Microseconds(), h.quantile(0.99).Microseconds(), h.most.Microseconds()}
}

// finish fills in what follows from the counts, once nothing is counted any
// more.
func (r *row) finish() {
	t := r.recording.sum()
	r.Requests, r.Wrong, r.Refused, r.Lost = t.requests(), t.wrong, t.refused, t.lost
	r.First, r.After = latencyOf(&t.first), latencyOf(&t.after)
	if n := float64(r.Requests); n > 0 {
		r.CPU = float64(r.cpu.Microseconds()) / n
		r.RedisHits = max(r.redisHits, 0) * 1000 / n // a replica that was started again counts anew
	}
	if r.judge(); len(r.Broken) > 0 {
		r.Examples = r.recording.examples
	}
}

func (r *row) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *row) broken(format string, args ...any) {
	r.Broken = append(r.Broken, fmt.Sprintf(format, args...))
}

// judge adds the broken promises that the counts show.
func (r *row) judge() {
	if r.Requests == 0 {
		r.broken("nothing was asked, so nothing is shown")
	}
	if r.Wrong > 0 {
		r.broken("%d wrong answers", r.Wrong)
	}
	if r.Refused > 0 {
		r.broken("%d answers of 500 and above", r.Refused)
	}
	if r.Lost > 0 && !r.promise.mayLose {
		r.broken("%d requests lost", r.Lost)
	}
}

// broken says whether anything was seen that must not be.
func (p *report) broken() bool {
	return slices.ContainsFunc(p.Rows, func(r *row) bool { return len(r.Broken) > 0 })
}

// write prints the table, then notes, figures over their bounds, and broken promises.
func (p *report) write(w io.Writer) error {
	var out strings.Builder
	var over []string
	cells := [][]string{strings.Fields("step requests wrong 5xx lost p50 p99 max +p99 p99 +p99 CPU_µs ×base RSS_MiB Redis_‰")}
	for _, r := range p.Rows {
		line, beyond := p.cells(r)
		cells, over = append(cells, line), append(over, beyond...)
	}
	writeTable(&out, cells)
	section := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&out, "\n%s\n  %s\n", title, strings.Join(lines, "\n  "))
		}
	}
	section("Seen", p.lines(func(r *row) []string { return r.Notes }))
	section("Over the bound (!)", over)
	section("BROKEN PROMISES", p.lines(func(r *row) []string { return r.Broken }))
	section("Some of the answers that should not have been", p.lines(func(r *row) []string { return r.Examples }))
	_, err := io.WriteString(w, out.String())
	return err
}

// lines are those of all rows, each with its step.
func (p *report) lines(of func(*row) []string) (lines []string) {
	for _, r := range p.Rows {
		for _, line := range of(r) {
			lines = append(lines, r.Step+": "+line)
		}
	}
	return lines
}

// base is the row that others are compared with: an empty one where the run
// did not come that far.
func (p *report) base() *row {
	for _, r := range p.Rows {
		if r.Step == baseline {
			return r
		}
	}
	return &row{}
}

// cells are the row's line of the table, and what it has over its bounds.
func (p *report) cells(r *row) (line, over []string) {
	base := p.base()
	usual := base.After
	if usual.Count == 0 {
		usual = base.First
	}
	added := func(when string, l latency, bound time.Duration) string {
		if l.Count == 0 || usual.Count == 0 || r == base {
			return "-"
		}
		grown := l.P99 - usual.P99
		if bound > 0 && grown > bound.Microseconds() {
			over = append(over, fmt.Sprintf("%s: p99 %s grew by %s ms, the goal is %s ms", r.Step, when, ms(grown), ms(bound.Microseconds())))
			return ms(grown) + "!"
		}
		return ms(grown)
	}
	figure := func(l latency, v int64) string {
		if l.Count == 0 {
			return "-"
		}
		return ms(v)
	}
	ratio := "-"
	if base.CPU > 0 && r.Requests > 0 {
		ratio = fmt.Sprintf("%.2f", r.CPU/base.CPU)
	}
	return []string{
		r.Step, fmt.Sprint(r.Requests), fmt.Sprint(r.Wrong), fmt.Sprint(r.Refused), fmt.Sprint(r.Lost),
		figure(r.First, r.First.P50), figure(r.First, r.First.P99), figure(r.First, r.First.Max), added("in the first second", r.First, r.promise.first),
		figure(r.After, r.After.P99), added("afterwards", r.After, r.promise.after),
		fmt.Sprintf("%.0f", r.CPU), ratio, fmt.Sprintf("%.0f", float64(r.RSS)/(1<<20)), fmt.Sprintf("%.0f", r.RedisHits),
	}, over
}

// ms is a number of microseconds in milliseconds.
func ms(us int64) string { return fmt.Sprintf("%.1f", float64(us)/1000) }

// writeTable writes lines of cells in columns, the first of them flush left,
// under a line that says which latencies are of when.
func writeTable(out *strings.Builder, lines [][]string) {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	from := func(column int) (at int) {
		for _, width := range widths[:column] {
			at += width + 2
		}
		return at
	}
	const firstSecond, afterwards = 5, 9 // columns
	fmt.Fprintf(out, "%*s%-*s%s\n", from(firstSecond), "", from(afterwards)-from(firstSecond), "first second, ms", "after, ms")
	for _, line := range lines {
		for i, cell := range line {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch i {
			case 0:
				out.WriteString(cell + padding)
			default:
				out.WriteString("  " + padding + strings.ReplaceAll(cell, "_", " "))
			}
		}
		out.WriteByte('\n')
	}
}

// writeJSON writes the report as one JSON object.
func (p *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(p)
}
