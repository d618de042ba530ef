package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plot, in px.
const (
	rowHeight  = 26
	labelWidth = 300
	panelWidth = 380
	panelGap   = 60
	plotTop    = 70
)

// quantileColours are those of p50, p90, p99 and p99.9.
var quantileColours = [...]struct{ name, colour string }{{"p50", "#0b6e4f"}, {"p90", "#3a86c8"}, {"p99", "#e08e0b"}, {"p99.9", "#c1121f"}}

// lanes are those of all sections.
func (f *figures) lanes() (all []*figure) {
	for _, s := range f.Sections {
		all = append(all, s.Figures...)
	}
	return all
}

// plot is an SVG image with a row for each lane: its latencies on the left, on
// a logarithmic scale, its CPU per request on the right.
func plot(f *figures) string {
	lanes := f.lanes()
	var out strings.Builder
	width, height := labelWidth+2*panelWidth+panelGap+90, plotTop+rowHeight*len(lanes)+40
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	text := func(x, y float64, anchor, what string) {
		fmt.Fprintf(&out, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(what))
	}
	text(10, 20, "start", f.Date.Format("2006-01-02")+", "+f.Machine+": "+f.Command)
	text(labelWidth, 44, "start", "latency, µs:")
	for i, q := range quantileColours {
		x := float64(labelWidth + 90 + 60*i)
		fmt.Fprintf(&out, `<circle cx="%.1f" cy="40" r="4" fill="%s"/>`+"\n", x, q.colour)
		text(x+8, 44, "start", q.name)
	}
	right := float64(labelWidth + panelWidth + panelGap)
	text(right, 44, "start", "CPU, µs per request (the line: its rounds)")

	most := 1.0
	low, high := math.Inf(1), 10.0
	for _, l := range lanes {
		_, top := bounds(l.CPURounds)
		most = max(most, top)
		if l.Latency.P50 > 0 {
			low, high = min(low, float64(l.Latency.P50)), max(high, float64(l.Latency.P999))
		}
	}
	low, high = math.Pow(10, math.Floor(math.Log10(min(low, high/10)))), math.Pow(10, math.Ceil(math.Log10(high)))
	at := func(us int64) float64 {
		v := max(float64(us), low)
		return labelWidth + panelWidth*math.Log(v/low)/math.Log(high/low)
	}
	bottom := float64(plotTop + rowHeight*len(lanes))
	for v := low; v <= high*1.01; v *= 10 {
		x := at(int64(v))
		fmt.Fprintf(&out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", x, plotTop-10, x, bottom)
		text(x, bottom+16, "middle", fmt.Sprintf("%.0f", v))
	}
	for i, l := range lanes {
		y := float64(plotTop + rowHeight*i + rowHeight/2)
		text(labelWidth-10, y+4, "end", l.Lane)
		if l.Latency.P50 > 0 {
			values := []int64{l.Latency.P50, l.Latency.P90, l.Latency.P99, l.Latency.P999}
			fmt.Fprintf(&out, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#999"/>`+"\n", at(values[0]), y, at(values[3]), y)
			for n, v := range values {
				fmt.Fprintf(&out, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", at(v), y, quantileColours[n].colour)
			}
		}
		if len(l.CPURounds) == 0 {
			continue
		}
		scale := panelWidth / most
		from, to := bounds(l.CPURounds)
		fmt.Fprintf(&out, `<rect x="%.1f" y="%.1f" width="%.1f" height="14" fill="#7aa5d2"/>`+"\n", right, y-7, l.CPU*scale)
		fmt.Fprintf(&out, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#222" stroke-width="2"/>`+"\n", right+from*scale, y, right+to*scale, y)
		text(right+to*scale+6, y+4, "start", fmt.Sprintf("%.1f", l.CPU))
	}
	out.WriteString("</svg>\n")
	return out.String()
}
