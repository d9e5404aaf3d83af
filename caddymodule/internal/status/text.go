package status

import (
	"fmt"
	"strings"
	"time"
)

// sentence turns an error text into a sentence.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	if option, _, found := strings.Cut(text, ": "); found && strings.Contains(option, "_") && !strings.Contains(option, " ") {
		return "Option " + text + "." // the case of its name stays
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// In returns the time from now to t in words, such as "in 5 minutes".
func In(t, now time.Time) string { return "in " + Lasting(t.Sub(now)) }

// ago returns the time from t to now in words, such as "5 minutes ago".
func ago(t, now time.Time) string { return Lasting(now.Sub(t)) + " ago" }

// Lasting returns a duration in words, such as "5 minutes". It rounds down, and calls anything below two seconds
// "a moment".
func Lasting(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "a moment"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

// inParentheses returns the error code with a space before it, or "".
func inParentheses(code string) string {
	if code == "" {
		return ""
	}
	return " (" + code + ")"
}
