package caddytest

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// BufferedLogger returns a logger at debug level, and what it writes, a JSON object a line.
func BufferedLogger() (*zap.Logger, *bytes.Buffer) {
	log := new(bytes.Buffer)
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(log), zap.DebugLevel)), log
}

// LogLines parses what a BufferedLogger has written, and empties the buffer.
func LogLines(t *testing.T, log *bytes.Buffer) []map[string]any {
	t.Helper()
	var entries []map[string]any
	for line := range strings.Lines(log.String()) {
		entry := make(map[string]any)
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		entries = append(entries, entry)
	}
	log.Reset()
	return entries
}

var badlyFormed = regexp.MustCompile(`  |\.\.|%!|: \.|\( |\(\)| \.|\.[A-Z]|;$`)

// WantSentences checks that a text consists of sentences. The parameter empty allows a text without any.
func WantSentences(t *testing.T, text string, empty bool) {
	t.Helper()
	if text == "" {
		if !empty {
			t.Error("the text is empty")
		}
		return
	}
	first, _ := utf8.DecodeRuneInString(text)
	if !unicode.IsUpper(first) || !strings.HasSuffix(text, ".") || badlyFormed.MatchString(text) || strings.TrimSpace(text) != text {
		t.Errorf("the text does not consist of sentences: %q", text)
	}
}
