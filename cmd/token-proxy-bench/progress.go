package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// progress shows the progress of the run. A terminal shows each phase, any other output gets a line for each round.
type progress struct {
	w        io.Writer
	terminal bool
	began    time.Time
	all      int // rounds to run
	done     int // rounds that have ended
	current  string
}

func newProgress(f *os.File) *progress {
	return &progress{w: f, terminal: term.IsTerminal(int(f.Fd())), began: time.Now()}
}

// clearLine moves to the start of the line of a terminal, and erases the line.
const clearLine = "\r\x1b[K"

// status shows a step outside the rounds. The empty string removes it from a terminal.
func (p *progress) status(what string) {
	switch {
	case p.terminal:
		fmt.Fprint(p.w, clearLine, what)
	case what != "":
		fmt.Fprintln(p.w, what)
	}
}

// expect sets the number of rounds, and starts the clock for the remaining time.
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

// left estimates the remaining time from the mean duration of the rounds so far.
func (p *progress) left() time.Duration {
	each := time.Since(p.began) / time.Duration(p.done)
	return (each * time.Duration(p.all-p.done)).Round(time.Second)
}
