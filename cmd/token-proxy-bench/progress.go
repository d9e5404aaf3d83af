package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// progress shows how far the run is: on a terminal each phase, elsewhere a line for each round.
type progress struct {
	w        io.Writer
	terminal bool
	began    time.Time
	all      int
	done     int
	current  string
}

func newProgress(f *os.File) *progress {
	return &progress{w: f, terminal: term.IsTerminal(int(f.Fd())), began: time.Now()}
}

// clearLine returns to the start of a terminal's line, and empties it.
const clearLine = "\r\x1b[K"

// say shows something that is not part of the rounds; "" takes it away.
func (p *progress) say(what string) {
	switch {
	case p.terminal:
		fmt.Fprint(p.w, clearLine, what)
	case what != "":
		fmt.Fprintln(p.w, what)
	}
}

// expect says how many begin and end are to come.
func (p *progress) expect(n int) { p.all, p.began = n, time.Now() }

func (p *progress) begin(what string) { p.current = what }

func (p *progress) phase(what string) {
	if p.terminal {
		fmt.Fprintf(p.w, "%s%s %s: %s … ", clearLine, p.share(), p.current, what)
	}
}

func (p *progress) end(r round) {
	p.done++
	if p.terminal {
		fmt.Fprint(p.w, clearLine)
	}
	fmt.Fprintf(p.w, "%s %s:", p.share(), p.current)
	for _, c := range contenders {
		f := r.Figures[c.name]
		fmt.Fprintf(p.w, " %s %s req/s, CPU %s µs;", c.name, figure(f[keyThroughput]), figure(f[keyCPU]))
	}
	fmt.Fprintf(p.w, " %s to go\n", p.left())
}

func (p *progress) share() string { return fmt.Sprintf("%3d %%", 100*p.done/max(p.all, 1)) }

// left is how long the rest takes, if it is like what was.
func (p *progress) left() time.Duration {
	each := time.Since(p.began) / time.Duration(p.done)
	return (each * time.Duration(p.all-p.done)).Round(time.Second)
}
