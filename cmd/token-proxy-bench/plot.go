package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// The plot has a strip for each metric and contender, which begins at 0. A strip has a dot for each round and a bar for
// the median, with the numbers beside it.
const (
	plotWidth   = 960
	labelWidth  = 230
	stripWidth  = 470
	stripHeight = 15
	metricGap   = 10
	headHeight  = 100
)

// The colours are distinct for colour-blind readers (Okabe and Ito).
var plotColours = map[string]string{sidecarName: "#0072b2", staticName: "#d55e00", fortyName: "#009e73"}

// plots returns the plots by the names of their files: one of the headline metrics, and one for each theme that has figures.
func (r *report) plots() map[string]string {
	plots := map[string]string{plotName: r.plot("token_proxy beside other proxies", func(m metric) bool { return m.Headline })}
	for _, t := range themes {
		of := func(m metric) bool { return m.Theme == t.metric }
		if slices.ContainsFunc(r.Metrics, func(m metric) bool { return of(m) && r.Summary[m.Key].most() > 0 }) {
			plots[t.metric+".svg"] = r.plot(t.title+" of token_proxy and other proxies, by load", of)
		}
	}
	return plots
}

func (r *report) plot(title string, includes func(metric) bool) string {
	var body strings.Builder
	y := headHeight
	for _, m := range r.Metrics {
		if s, ok := r.Summary[m.Key]; ok && includes(m) && s.most() > 0 {
			y = r.plotMetric(&body, m, s, y)
		}
	}
	var plot strings.Builder
	fmt.Fprintf(&plot, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", plotWidth, y)
	fmt.Fprintf(&plot, "<title>%s</title>\n<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", html.EscapeString(title), plotWidth, y)
	r.plotHead(&plot)
	plot.WriteString(body.String())
	plot.WriteString("</svg>\n")
	return plot.String()
}

// plotHead writes the conditions and the legend of the colours.
func (r *report) plotHead(w *strings.Builder) {
	sentences := strings.SplitAfter(r.Conditions.describe(), ". ")
	lines := append([]string{sentences[0] + sentences[1]}, sentences[2:]...)
	for i, line := range lines {
		fmt.Fprintf(w, `<text x="10" y="%d" fill="#444">%s</text>`+"\n", 20+i*16, html.EscapeString(line))
	}
	x := labelWidth
	for _, c := range contenders {
		fmt.Fprintf(w, `<circle cx="%d" cy="76" r="5" fill="%s"/><text x="%d" y="80" font-weight="bold">%s</text>`+"\n",
			x, plotColours[c.name], x+10, html.EscapeString(c.name))
		x += 130
	}
}

// plotMetric writes the strips of a metric below y, and returns the y below them.
func (r *report) plotMetric(w *strings.Builder, m metric, s summary, y int) int {
	title := strings.TrimSuffix(m.Title+", "+m.Unit, ", ")
	fmt.Fprintf(w, `<text x="10" y="%d">%s</text>`+"\n", y+stripHeight-3, html.EscapeString(title))
	for _, c := range contenders {
		if v, ok := s.Contenders[c.name]; ok {
			plotStrip(w, plotColours[c.name], y, s.most(), v, valuesOf(r.Rounds, c.name, m.Key))
			y += stripHeight
		}
	}
	return y + metricGap
}

func plotStrip(w *strings.Builder, colour string, y int, most float64, s spread, values []float64) {
	middle := float64(y) + stripHeight/2.0
	at := func(v float64) float64 { return labelWidth + v/most*stripWidth }
	fmt.Fprintf(w, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", labelWidth, labelWidth+stripWidth, middle, middle)
	for _, v := range values {
		fmt.Fprintf(w, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s" fill-opacity="0.45"/>`+"\n", at(v), middle, colour)
	}
	fmt.Fprintf(w, `<rect x="%.1f" y="%.1f" width="2.5" height="%d" fill="%s"/>`+"\n", at(s.Median)-1.25, middle-6, 12, colour)
	fmt.Fprintf(w, `<text x="%d" y="%.1f" fill="%s">%s</text>`+"\n", labelWidth+stripWidth+12, middle+4, colour, html.EscapeString(s.cell()))
}

// most returns the greatest value of all contenders.
func (s summary) most() float64 {
	most := 0.0
	for _, v := range s.Contenders {
		most = max(most, v.Max)
	}
	return most
}
