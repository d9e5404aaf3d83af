package tenants

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// Placeholder stands for the name of the tenant in the values of options.
const Placeholder = "{tenant}"

// Template is what the tenants of a credential have in common. All its texts are those of one tenant as soon as its
// name replaces {tenant}.
type Template struct {
	module       string // the id of the provider's module
	provider     string // JSON
	clientID     string
	clientSecret string
	files        []string // as option.Beneath makes them

	// What follows is of use while the template is made.
	none  bool // the credential has no tenants
	basic bool // the tenants are the clients of `tenant basic`
	used  int  // values that use {tenant}
}

// use is where {tenant} may be in a value.
type use int

const (
	inText       use = 1 << iota // anywhere
	inFilePath                   // as a segment of the path in {file.…}, which is the whole value
	inPlainPath                  // as a segment of a path
	inPathsOfURL                 // in the path of a URL
)

// allowedUses are the options that may use {tenant}, as they are called in JSON.
var allowedUses = map[string]use{
	"client_id":                       inText | inFilePath,
	"client_secret":                   inFilePath,
	"provider.signing_key":            inFilePath,
	"provider.client_certificate":     inFilePath,
	"provider.client_certificate_key": inFilePath,
	"provider.client_assertion_file":  inPlainPath,
	"provider.dpop_key":               inFilePath,
	"provider.token_url":              inPathsOfURL,
	"provider.scope":                  inText,
	"provider.audience":               inText,
	"provider.resource":               inText,
	"provider.store":                  inText,
	"provider.params":                 inText | inFilePath,
	"provider.headers":                inText | inFilePath,
}

// Mistake is a mistake in the use of {tenant}.
type Mistake struct {
	Option string // as it is called in JSON, without the provider; empty if the mistake is in no option
	Reason string
}

// Error implements error.
func (e *Mistake) Error() string {
	if e.Option == "" {
		return e.Reason
	}
	return e.Option + ": " + e.Reason
}

// NewTemplate checks where the configuration of a credential, which is JSON, uses {tenant}. It returns nil for a credential
// without tenants. The providers have their modules in the namespace.
func NewTemplate(credential []byte, namespace string) (*Template, error) {
	var options map[string]any
	decoder := json.NewDecoder(bytes.NewReader(credential))
	decoder.UseNumber()
	if err := decoder.Decode(&options); err != nil {
		return nil, err
	}
	tenant, ok := options["tenant"].(map[string]any)
	if !ok && !bytes.Contains(credential, []byte(Placeholder)) {
		return nil, nil
	}
	delete(options, "tenant")
	t := &Template{none: !ok, basic: tenant["name"] == Basic}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		var err error
		if options[name], err = t.compile(name, options[name]); err != nil {
			return nil, err
		}
	}
	if t.used == 0 && !t.basic {
		return nil, &Mistake{"tenant", "no value uses {tenant}, so that all tenants would be the same client; use it in client_id, client_secret or the provider"}
	}
	return t, t.keep(options, namespace)
}

// compile returns the value with the boundaries that files of tenants must not leave.
func (t *Template) compile(path string, value any) (any, error) {
	switch v := value.(type) {
	case string:
		if !strings.Contains(v, Placeholder) {
			return v, nil
		}
		t.used++
		if t.none && usesOf(path) != 0 {
			return nil, &Mistake{optionOfPath(path), "{tenant} needs the option tenant"}
		}
		if t.basic {
			return nil, &Mistake{optionOfPath(path), "{tenant} is not possible with `tenant basic`, whose clients have no name"}
		}
		return t.compileText(path, v)
	case []any:
		for i := range v {
			var err error
			if v[i], err = t.compile(path, v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if strings.Contains(name, Placeholder) {
				return nil, &Mistake{optionOfPath(path), "{tenant} cannot be part of a name"}
			}
			var err error
			if v[name], err = t.compile(path+"."+name, v[name]); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

// optionOfPath returns the option at a path, as errors name it.
func optionOfPath(path string) string { return strings.TrimPrefix(path, "provider.") }

// usesOf returns where the value at a path may have {tenant}. The members of params and headers have any name.
func usesOf(path string) use {
	parts := strings.SplitN(path, ".", 3)
	if len(parts) == 3 && parts[1] != "params" && parts[1] != "headers" {
		return 0
	}
	return allowedUses[strings.Join(parts[:min(2, len(parts))], ".")]
}

var (
	fileOfTenant = regexp.MustCompile(`^\{file\.(.*)\}$`)

	// nestedTenant matches {tenant} within another placeholder, but not within JSON.
	nestedTenant = regexp.MustCompile(`\{[^{}"]*\{tenant\}`)

	// escapedTenant matches {tenant} where a part of it would complete an escaped character.
	escapedTenant = regexp.MustCompile(`%.?\{tenant\}`)
)

func (t *Template) compileText(path, text string) (string, error) {
	uses := usesOf(path)
	m := fileOfTenant.FindStringSubmatch(text)
	switch {
	case uses&inFilePath != 0 && m != nil:
		file, err := t.fileBeneath(m[1])
		if err != nil {
			return "", &Mistake{optionOfPath(path), err.Error()}
		}
		return "{file." + file + "}", nil
	case uses&inPlainPath != 0:
		file, err := t.fileBeneath(text)
		if err != nil {
			return "", &Mistake{optionOfPath(path), err.Error()}
		}
		return file, nil
	case uses != 0 && nestedTenant.MatchString(text):
		return "", &Mistake{optionOfPath(path), "{tenant} cannot be part of another placeholder, except for {file.…} in options that take a file"}
	case uses&inPathsOfURL != 0:
		if !tenantInPath(text) {
			return "", &Mistake{optionOfPath(path), "{tenant} can only be in the path of the URL: a tenant must not choose the scheme, the host, the port or the query"}
		}
		return text, nil
	case uses&inText != 0:
		return text, nil
	case uses&inFilePath != 0:
		return "", &Mistake{optionOfPath(path), "{tenant} can only be in the path of a file here, like {file./run/tenants/{tenant}/secret}"}
	default:
		return "", &Mistake{optionOfPath(path), "{tenant} is not possible here"}
	}
}

// tenantInPath reports whether {tenant} is only in the path of a URL. What placeholders of the environment stand for is
// checked when the configuration is loaded.
func tenantInPath(text string) bool {
	_, rest, ok := strings.Cut(text, "://")
	if !ok {
		rest = text
	}
	host, path, _ := strings.Cut(rest, "/")
	path, query, _ := strings.Cut(path, "?")
	path, fragment, _ := strings.Cut(path, "#")
	return !strings.Contains(strings.TrimSuffix(text, rest)+host+query+fragment, Placeholder) && !escapedTenant.MatchString(path)
}

// fileBeneath returns the name of a tenant's file, which must be in the folder before {tenant}.
func (t *Template) fileBeneath(path string) (string, error) {
	segments := strings.Split(path, "/")
	first := slices.Index(segments, Placeholder)
	for _, segment := range segments {
		if strings.Contains(segment, Placeholder) && segment != Placeholder {
			return "", errors.New("{tenant} must be a whole segment of the path, like /run/tenants/{tenant}/secret")
		}
		if segment != Placeholder && strings.ContainsAny(segment, "{}\x00") {
			return "", errors.New("the path can have no placeholder other than {tenant}")
		}
	}
	folder := strings.Join(segments[:first], "/")
	if folder == "" {
		return "", errors.New("the path needs a folder before {tenant}, like /run/tenants/{tenant}/secret")
	}
	file := option.Beneath(folder, strings.Join(segments[first:], "/"))
	t.files = append(t.files, file)
	return file, nil
}

// keep stores the compiled options.
func (t *Template) keep(options map[string]any, namespace string) error {
	t.clientID, _ = options["client_id"].(string)
	t.clientSecret, _ = options["client_secret"].(string)
	of, ok := options["provider"].(map[string]any)
	if !ok {
		return nil // which is reported as any other missing provider is
	}
	name, _ := of["name"].(string)
	delete(of, "name")
	t.module = namespace + "." + name
	raw, err := json.Marshal(of)
	t.provider = string(raw)
	return err
}

// in returns a text of the template for one tenant. A name needs no escape in JSON, in a path or in a URL.
func (t *Template) in(text, tenant string) string {
	return strings.ReplaceAll(text, Placeholder, tenant)
}

// Instance makes the provider of one tenant. The caller must call end.
func (t *Template) Instance(ctx caddy.Context, tenant string) (_ provider.Provider, end func(), err error) {
	info, err := caddy.GetModule(t.module)
	if err != nil {
		return nil, nil, errors.New("unknown provider")
	}
	mod := info.New()
	end = func() {
		if c, ok := mod.(caddy.CleanerUpper); ok {
			_ = c.Cleanup()
		}
	}
	p, ok := mod.(provider.Provider)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a provider", mod)
	}
	if err := caddy.StrictUnmarshalJSON([]byte(t.in(t.provider, tenant)), mod); err != nil {
		return nil, nil, err
	}
	if m, ok := mod.(caddy.Provisioner); ok {
		err = m.Provision(ctx)
	}
	if m, ok := mod.(caddy.Validator); ok && err == nil {
		err = m.Validate()
	}
	return p, end, err
}

// ClientID returns the option client_id of one tenant.
func (t *Template) ClientID(tenant string) string { return t.in(t.clientID, tenant) }

// ClientSecret returns the option client_secret of one tenant.
func (t *Template) ClientSecret(tenant string) string { return t.in(t.clientSecret, tenant) }

// HasCertificates reports whether the tokens of tenants may be bound to TLS client certificates. The provider is one of theirs.
func (t *Template) HasCertificates(p provider.Provider) bool {
	if t == nil {
		return false
	}
	_, ok := p.(provider.CertificateHolder)
	return ok && strings.Contains(t.provider, `"client_certificate"`)
}

// Missing reports whether a file of the tenant does not exist. If a file cannot be read for another reason, the tenant exists,
// and the token call reports the reason.
func (t *Template) Missing(tenant string) bool {
	for _, file := range t.files {
		if _, err := option.ReadFile(t.in(file, tenant)); option.IsMissing(err) {
			return true
		}
	}
	return false
}
