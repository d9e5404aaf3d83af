package caddymodule

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// particulars are what a vendor insists on beside the right client: without a line that begins so, its endpoint must
// refuse the recipe.
var particulars = map[string][]string{
	"adobe-ims":                  {"scope_separator"},
	"amazon-sp-api":              {"client_auth", "grant"},
	"auth0":                      {"client_auth", "audience"},
	"cognito":                    {"scope"},
	"commercetools":              {"scope"},
	"crowdstrike-falcon":         {"client_auth", "grant"},
	"ebay":                       {"scope"},
	"entra-cae":                  {"param claims"},
	"entra-certificate":          {"signing_alg", "assertion_typ", "scope"},
	"entra-secret":               {"client_auth", "scope"},
	"entra-workload-identity":    {"scope"},
	"fapi2-dpop":                 {"assertion_audience", "signing_alg", "dpop"},
	"fapi2-mtls":                 {"assertion_audience", "signing_alg"},
	"fedex":                      {"client_auth"},
	"github-app":                 {"grant", "encoding", "header X-GitHub-Api-Version"},
	"google-service-account":     {"client_id_param", "assertion_claim scope", "assertion_claim sub"},
	"mtn-momo":                   {"header Ocp-Apim-Subscription-Key"},
	"okta":                       {"assertion_typ", "scope"},
	"okta-dpop":                  {"assertion_typ", "scope", "dpop"},
	"pingone":                    {"client_auth", "scope"},
	"salesforce":                 {"client_auth"},
	"salesforce-marketing-cloud": {"client_auth", "json_param account_id"},
	"servicenow":                 {"client_auth"},
	"shopify":                    {"client_auth"},
	"twilio":                     {"client_auth"},
	"walmart":                    {"header WM_QOS.CORRELATION_ID", "header WM_SVC.NAME"},
	"workday":                    {"grant"},
	"zoom":                       {"grant", "param account_id"},
}

// TestRecipes runs each recipe against a development token endpoint that demands what the vendor documents and answers
// as it documents. TestExamplesLoad loads the recipes as they stand.
func TestRecipes(t *testing.T) {
	recipes := caddyfilesIn(t, "../examples/providers")
	if described := caddyfilesIn(t, "testdata/providers"); !slices.Equal(recipes, described) {
		t.Fatalf("the recipes are %q,\nthe descriptions %q", recipes, described)
	}
	for _, document := range []string{"../README.md", "../examples/README.md"} {
		if count := fmt.Sprintf("%d recipes", len(recipes)); !strings.Contains(readExample(t, document), count) {
			t.Errorf("%s does not mention %s", document, count)
		}
	}
	index := readExample(t, "../examples/providers/README.md")
	for _, name := range recipes {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(index, "("+name+".caddyfile)") {
				t.Error("README.md does not name it")
			}
			t.Run("as it stands", func(t *testing.T) { newRecipe(t, name).wantToken(t) })
			t.Run("wrong client", func(t *testing.T) { newRecipe(t, name).wantRefusal(t, "", wrongContents()) })
			for _, line := range particulars[name] {
				t.Run("without "+line, func(t *testing.T) { newRecipe(t, name).wantRefusal(t, line, exampleContents()) })
			}
		})
	}
	for name := range particulars {
		if !slices.Contains(recipes, name) {
			t.Errorf("there are particulars of %s, but no recipe", name)
		}
	}
}

// caddyfilesIn returns the names of the Caddyfiles in a folder, and checks that they are formatted.
func caddyfilesIn(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(folder + "/*.caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: found %d files, error %v", folder, len(files), err)
	}
	var names []string
	for _, file := range files {
		if content := readExample(t, file); string(caddyfile.Format([]byte(content))) != content {
			t.Errorf("%s is not formatted", file)
		}
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".caddyfile"))
	}
	return names
}

// recipe is a recipe between servers on this machine: the vendor's token endpoint, as it is described, and its API.
type recipe struct {
	config      string // the recipe, for these servers
	vendor      string // the servers' sites
	proxy       string // addresses
	tokens, api string
	tokenField  string   // the header field that the API wants the token in
	moreFields  []string // and those that it wants besides
	authority   string   // a file with the certificate of a token endpoint with TLS
	server      *caddyServer
}

var (
	tokenURLs      = regexp.MustCompile(`(?m)^(\s*(?:token_url|issuer|token_endpoint) )https://[^/\s]+`)
	upstreamURL    = regexp.MustCompile(`(?m)^(\ttoken_proxy \S+ )https://[^/\s]+`)
	endOfProvider  = regexp.MustCompile(`(?m)^\t\t\t\}$`)
	describedPath  = regexp.MustCompile(`(?m)^# (?:GET|POST) (/\S+)$`)
	describedToken = regexp.MustCompile(`(?m)^# The API wants the token in: (\S+)$`)
	describedMore  = regexp.MustCompile(`(?m)^# The API wants besides: (.+)$`)
)

func newRecipe(t *testing.T, name string) *recipe {
	t.Helper()
	r := &recipe{proxy: freeAddr(t), tokens: freeAddr(t), api: freeAddr(t), tokenField: "Authorization"}
	description := readExample(t, "testdata/providers/"+name+".caddyfile")

	api := "dev_api"
	if m := describedToken.FindStringSubmatch(description); m != nil {
		r.tokenField = m[1]
		api = "dev_api {\n header " + r.tokenField + " \"\"\n}"
	}
	if strings.Contains(description, "\tdpop required") {
		api = "dev_api {\n dpop required nonce\n}"
	}
	if m := describedMore.FindStringSubmatch(description); m != nil {
		r.moreFields = strings.Fields(m[1])
	}

	tokens, tls := "http://"+r.tokens, ""
	if strings.Contains(description, "client_certificate") {
		r.authority = writeExampleFile(t, exampleContents().certificate)
		tokens = "https://localhost:" + portNumber(r.tokens)
		tls = fmt.Sprintf("tls %s %s {\n client_auth {\n mode request\n}\n}\n",
			r.authority, writeExampleFile(t, exampleContents().key))
	}
	paths := ""
	for _, m := range describedPath.FindAllStringSubmatch(description, -1) {
		paths += " " + m[1]
	}
	description = withFiles(t, tokenURLs.ReplaceAllString(description, "${1}"+tokens))
	r.vendor = fmt.Sprintf("%s {\n bind 127.0.0.1\n log\n %s @described path%s\n handle @described {\n %s}\n}\n",
		tokens, tls, paths, description) + siteConfig(r.api, api)

	r.config = readExample(t, "../examples/providers/"+name+".caddyfile")
	r.config = strings.ReplaceAll(r.config, ":8080", ":"+portNumber(r.proxy))
	r.config = tokenURLs.ReplaceAllString(r.config, "${1}"+tokens)
	r.config = upstreamURL.ReplaceAllString(r.config, "${1}http://"+r.api)
	return r
}

func portNumber(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// caddyfile is the recipe, with files of these contents, and the vendor's servers.
func (r *recipe) caddyfile(t *testing.T, contents *fileContents) string {
	t.Helper()
	config := withContents(t, r.config, contents)
	options := ""
	if r.authority != "" {
		options = " auto_https disable_redirects\n"
		config = endOfProvider.ReplaceAllString(config, "$0\n transport {\n ca {file."+r.authority+"}\n}")
	}
	if strings.Contains(r.tokenField, "_") { // a server that is Caddy drops such fields, unless they are named
		fields := r.tokenField + " " + strings.Join(r.moreFields, " ")
		for _, addr := range []string{r.tokens, r.api} {
			options += " servers " + addr + " {\n expected_underscore_headers " + fields + "\n}\n"
		}
	}
	return strings.Replace(config, "{\n", "{\n"+options, 1) + r.vendor
}

// wantToken checks that two requests get through with one token, where the API wants it.
func (r *recipe) wantToken(t *testing.T) {
	r.server = startCaddy(t, r.caddyfile(t, exampleContents()))
	for range 2 {
		a := get(t, "http://"+r.proxy+"/some/path")
		if a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d; the token endpoint got %+v", a.StatusCode, r.tokenRequests(t))
		}
		echo := echoOf(t, a)
		if echo.Path != "/some/path" || echo.Client != devserver.DefaultClientID {
			t.Errorf("the API saw %+v", echo)
		}
		for _, field := range append(r.moreFields, r.tokenField) {
			if !slices.Contains(echo.HeaderNames, http.CanonicalHeaderKey(field)) {
				t.Errorf("the API did not get %s", field)
			}
		}
		if r.tokenField != "Authorization" && slices.Contains(echo.HeaderNames, "Authorization") {
			t.Errorf("the API got Authorization besides %s", r.tokenField)
		}
	}
	if got := r.tokenRequests(t); len(got) != 1 || got[0].Status/100 != 2 {
		t.Errorf("the token endpoint got %d requests, for 2 to the API: %+v", len(got), got)
	}
}

// wantRefusal checks that the vendor refuses the recipe without a line that begins so, or with files of these contents.
func (r *recipe) wantRefusal(t *testing.T, without string, contents *fileContents) {
	t.Helper()
	if without != "" {
		line := regexp.MustCompile(`(?m)^\t\t\t\t` + regexp.QuoteMeta(without) + `\b.*\n`)
		if n := len(line.FindAllString(r.config, -1)); n != 1 {
			t.Fatalf("the recipe has %d such lines", n)
		}
		r.config = line.ReplaceAllString(r.config, "")
	}
	r.server = startCaddy(t, r.caddyfile(t, contents))
	get(t, "http://"+r.proxy+"/some/path").wantProblem(t, http.StatusBadGateway, "proxy_configuration_error")
	got := r.tokenRequests(t)
	if len(got) != 1 || got[0].Status/100 != 4 || len(got[0].Header[devserver.RefusalHeader]) != 1 {
		t.Fatalf("the token endpoint got %d requests: %+v", len(got), got)
	}
	t.Log(got[0].Status, got[0].Header[devserver.RefusalHeader])
}

// tokenRequest is a token request, as the server has logged it.
type tokenRequest struct {
	Logger  string
	Request struct{ Host, Method string }
	Status  int
	Header  http.Header `json:"resp_headers"`
}

// tokenRequests stops Caddy, which then has logged all, and returns what the token endpoint got, but for requests for
// metadata and those that it answered with a nonce for the next.
func (r *recipe) tokenRequests(t *testing.T) []tokenRequest {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	var found []tokenRequest
	for line := range strings.Lines(r.server.logs()) {
		var got tokenRequest
		if err := json.Unmarshal([]byte(line), &got); err != nil || !strings.HasPrefix(got.Logger, "http.log.access") {
			continue // another entry, with fields of its own
		}
		if strings.HasPrefix(strings.Join(got.Header[devserver.RefusalHeader], ""), "nonce is missing") {
			continue
		}
		if strings.HasSuffix(got.Request.Host, ":"+portNumber(r.tokens)) && got.Request.Method == http.MethodPost {
			found = append(found, got)
		}
	}
	return found
}

// fileContents is what is in the files that an example names: a key, a certificate for it, a service account's key
// file with it, and a secret.
type fileContents struct{ key, certificate, serviceAccount, secret string }

func (fc *fileContents) of(name string) string {
	switch {
	case strings.HasSuffix(name, "cert.pem"):
		return fc.certificate
	case strings.HasSuffix(name, ".pem"):
		return fc.key
	case strings.HasSuffix(name, "share.key"):
		return strings.Repeat(fc.secret, 4) // long enough for a key
	case strings.HasSuffix(name, ".json"):
		return fc.serviceAccount
	case strings.HasSuffix(name, "key"): // for sharing, where no two keys may be the same
		return rand.Text() + rand.Text()
	default:
		return fc.secret
	}
}

// exampleContents is what the development token endpoints accept. wrongContents is what they do not.
var (
	exampleContents = sync.OnceValue(func() *fileContents { return newFileContents(devserver.DefaultClientSecret) })
	wrongContents   = sync.OnceValue(func() *fileContents { return newFileContents("another-secret") })
)

// newFileContents makes an RSA key, and a certificate that is good for a server on localhost too.
func newFileContents(secret string) *fileContents {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"localhost"},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	serviceAccount, err := json.Marshal(map[string]string{
		"type":           "service_account",
		"private_key_id": "example",
		"private_key":    keyPEM,
		"client_email":   devserver.DefaultClientID,
		"token_uri":      "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		panic(err)
	}
	return &fileContents{
		key:            keyPEM,
		certificate:    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		serviceAccount: string(serviceAccount),
		secret:         secret,
	}
}
