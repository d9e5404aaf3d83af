package launch

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// Named are the environment variables and the secret files that a configuration names.
type Named struct {
	variables []string
	files     []string
}

var (
	variablePlaceholder = regexp.MustCompile(`\{env\.([^{}]+)\}`)
	filePlaceholder     = regexp.MustCompile(`\{file\.([^{}]+)\}`)

	// caddyfileVariable is {$NAME} or {$NAME:default}. Caddy replaces it when it reads the Caddyfile.
	caddyfileVariable = regexp.MustCompile(`\{\$([^{}:]+)`)
)

// fileOptions are the options whose value is the path of a secret file.
var fileOptions = []string{"client_assertion_file"}

// common are variables that any program may need and that hold nothing of a credential. The application keeps them even if
// the configuration names them, as in {$HOME}/secret.
var common = strings.Fields(`PATH HOME USER LOGNAME SHELL PWD TERM LANG TZ HOSTNAME TMPDIR TMP TEMP
	APPDATA COMPUTERNAME COMSPEC HOMEDRIVE HOMEPATH LOCALAPPDATA PATHEXT PROGRAMDATA PROGRAMFILES SYSTEMDRIVE SYSTEMROOT USERDOMAIN
	USERNAME USERPROFILE WINDIR`)

// FindNamed looks through a configuration in JSON, and through the texts that it was adapted from, because the JSON has the
// values of some variables in the place of their names.
func FindNamed(config []byte, texts ...string) (Named, error) {
	var root any
	if err := json.Unmarshal(config, &root); err != nil {
		return Named{}, err
	}
	var n Named
	n.addValue("", root)
	for _, text := range texts {
		n.addText(text)
		n.addVariables(caddyfileVariable, text)
	}
	return n, nil
}

// addValue adds what a value of the JSON names. option is the name of the member that has it.
func (n *Named) addValue(option string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			n.addText(name)
			n.addValue(name, member)
		}
	case []any:
		for _, element := range value {
			n.addValue(option, element)
		}
	case string:
		n.addText(value)
		if slices.Contains(fileOptions, option) {
			n.files = append(n.files, variablePlaceholder.ReplaceAllStringFunc(value, func(placeholder string) string {
				return os.Getenv(variablePlaceholder.FindStringSubmatch(placeholder)[1])
			}))
		}
	}
}

func (n *Named) addText(text string) {
	n.addVariables(variablePlaceholder, text)
	for _, m := range filePlaceholder.FindAllStringSubmatch(text, -1) {
		n.files = append(n.files, m[1])
	}
}

func (n *Named) addVariables(pattern *regexp.Regexp, text string) {
	for _, m := range pattern.FindAllStringSubmatch(text, -1) {
		n.variables = append(n.variables, strings.TrimSpace(m[1]))
	}
}

// concerns reports whether the configuration names the variable, or a file whose path is in its value.
func (n Named) concerns(name, value string) bool {
	same := func(other string) bool { return sameName(name, other) }
	if slices.ContainsFunc(n.variables, same) && !slices.ContainsFunc(common, same) {
		return true
	}
	return slices.ContainsFunc(n.files, func(file string) bool { return mentions(value, file) })
}

// sameName reports whether two variables have the same name. On Windows, their case does not matter.
func sameName(a, b string) bool {
	if runtime.GOOS == "windows" {
		return strings.EqualFold(a, b)
	}
	return a == b
}

// mentions reports whether the value of a variable is the path of the file, or has its absolute path in it, as the options of
// a program do.
func mentions(value, file string) bool {
	if file == "" || value == "" {
		return false
	}
	value = filepath.FromSlash(value) // Windows knows both slashes
	if filepath.Clean(value) == filepath.Clean(file) {
		return true
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return false
	}
	pattern := `(^|[^\w.-])` + regexp.QuoteMeta(file) + `($|[^\w./\\-])`
	if runtime.GOOS == "windows" {
		pattern = "(?i)" + pattern
	}
	return regexp.MustCompile(pattern).MatchString(value)
}
