//go:build unix && !linux

package launch

func runHolder(string) {}
