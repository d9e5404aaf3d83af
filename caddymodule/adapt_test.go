package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// adaptCanary stands in golden files where a secret would stand. No error may repeat it.
const adaptCanary = "CANARY"

// TestAdaptGolden adapts each golden Caddyfile, and compares what this gives with what is written below it.
func TestAdaptGolden(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) { checkGolden(t, g) })
	}
}

func checkGolden(t *testing.T, g golden) {
	if formatted := string(caddyfile.Format([]byte(g.input))); formatted != g.input {
		t.Errorf("the Caddyfile is not formatted; it should be\n%s", formatted)
	}
	config, warnings, err := adaptWithWarnings(g.input)
	if g.refused {
		checkAdaptError(t, err, strings.Split(g.want, "\n")...)
		return
	}
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	got := indented(t, config)
	if *updateAdapted && got != g.want {
		g.update(t, got)
		return
	}
	if got != g.want {
		t.Errorf("got\n%s\nwant\n%s", got, g.want)
	}
}

// adaptWithWarnings is adapt with the adapter's warnings.
func adaptWithWarnings(input string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
}

func indented(t *testing.T, config []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, config, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var placeInCaddyfile = regexp.MustCompile(`\bCaddyfile:[1-9][0-9]*`)

// checkAdaptError checks what holds for every error, and that it has all this in it.
func checkAdaptError(t *testing.T, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("the mistake is accepted; want %q", wants)
		return
	}
	if !placeInCaddyfile.MatchString(err.Error()) {
		t.Errorf("the error has no file and line: %v", err)
	}
	if strings.Contains(err.Error(), adaptCanary) {
		t.Errorf("the error repeats a secret: %v", err)
	}
	for _, want := range wants {
		// "Caddyfile:1" is not in "Caddyfile:12".
		if want == "" || !regexp.MustCompile(regexp.QuoteMeta(want)+`(\D|$)`).MatchString(err.Error()) {
			t.Errorf("got error %q, want %q in it", err, want)
		}
	}
}

// optionLine marks the line of a Caddyfile where an option is put.
const optionLine = "OPTION"

// optionPlaces are Caddyfiles that are right as soon as optionLine is replaced by an option that is.
var optionPlaces = map[string]string{
	"app": `{
	token_proxy {
		OPTION
	}
}
`,
	"credential": `{
	token_proxy {
		credential catalog {
			provider optoro
			client_id catalog-id
			OPTION
		}
	}
}
`,
	"credential without id": `{
	token_proxy {
		credential catalog {
			provider optoro
			OPTION
		}
	}
}
`,
	"optoro": `{
	token_proxy {
		credential catalog {
			provider optoro {
				OPTION
			}
			client_id catalog-id
		}
	}
}
`,
	"elastic_path": `{
	token_proxy {
		credential catalog {
			provider elastic_path {
				OPTION
			}
			client_id catalog-id
		}
	}
}
`,
	"oauth2": `{
	token_proxy {
		credential catalog {
			provider oauth2 {
				OPTION
				token_url https://login.example.com/token
			}
			client_id catalog-id
		}
	}
}
`,
	"oauth2 without URL": `{
	token_proxy {
		credential catalog {
			provider oauth2 {
				OPTION
			}
			client_id catalog-id
		}
	}
}
`,
	"response": `{
	token_proxy {
		credential catalog {
			provider oauth2 {
				token_url https://login.example.com/token
				response {
					OPTION
					retry 409
				}
			}
			client_id catalog-id
		}
	}
}
`,
	"response without retry": `{
	token_proxy {
		credential catalog {
			provider oauth2 {
				token_url https://login.example.com/token
				response {
					OPTION
					token t
				}
			}
			client_id catalog-id
		}
	}
}
`,
	"transport": `{
	token_proxy {
		credential catalog {
			provider optoro
			client_id catalog-id
			transport {
				OPTION
			}
		}
	}
}
`,
	"directive": siteHead + `	token_proxy catalog https://api.example.com {
		lb_retries 1
		OPTION
		lb_try_duration 1s
	}
}
`,
	"dev optoro": `:8080 {
	dev_token_endpoint optoro {
		OPTION
	}
}
`,
	"dev elastic_path": `:8080 {
	dev_token_endpoint elastic_path {
		OPTION
	}
}
`,
	"dev_api": `:8080 {
	dev_api {
		OPTION
	}
}
`,
}

// siteHead begins a site where the credential catalog is defined.
const siteHead = `{
	token_proxy {
		credential catalog {
			provider optoro
			client_id catalog-id
		}
	}
}

:8080 {
`

// withOption puts an option, and what it needs beside it, into its place. It returns the number of the option's line.
func withOption(place, beside, option string) (string, int) {
	before, after, ok := strings.Cut(optionPlaces[place], optionLine)
	if !ok {
		panic("no place for an option: " + place)
	}
	if beside != "" {
		before += beside + "\n"
	}
	return before + option + after, 1 + strings.Count(before, "\n")
}

// optionKind is what an option takes.
type optionKind int

const (
	takesNone optionKind = iota
	takesOne
	takesOneOrTwo
	takesMany     // one or more
	takesDuration // one, above zero
	takesCount    // one whole number above zero

	takesOneOrEmpty   // one, which may be empty
	takesNameAndValue // a name, and one that may be empty
)

// adaptOptions are all options there are.
var adaptOptions = []struct {
	place, option string
	kind          optionKind
	value         string // a right one
	beside        string // what the option needs to be right
}{
	{"app", "replay_memory", takesOne, "8MiB", ""},

	{"credential without id", "client_id", takesOne, "a", ""},
	{"credential", "client_secret", takesOne, "{env.SECRET}", ""},
	{"credential", "api_hosts", takesMany, "api.example.com", ""},
	{"credential", "allow_plaintext", takesNone, "", ""},
	{"credential", "refresh_margin", takesDuration, "1m", ""},
	{"credential", "fetch_timeout", takesDuration, "1m", ""},
	{"credential", "max_wait", takesDuration, "1m", ""},
	{"credential", "default_lifetime", takesDuration, "1m", ""},
	{"credential", "header", takesOneOrTwo, "X-Token {token}", ""},
	{"credential", "prefetch", takesOne, "on", ""},

	{"optoro", "token_url", takesOne, "https://auth.example.com", ""},
	{"elastic_path", "token_url", takesOne, "https://auth.example.com", ""},
	{"elastic_path", "grant", takesOne, "implicit", ""},
	{"elastic_path", "store", takesOne, "a", ""},

	{"oauth2 without URL", "token_url", takesOne, "https://login.example.com", ""},
	{"oauth2 without URL", "issuer", takesOne, "https://login.example.com", ""},
	{"oauth2", "client_auth", takesOne, "none", ""},
	{"oauth2", "basic_encoding", takesOne, "raw", ""},
	{"oauth2", "client_id_param", takesOneOrEmpty, "a", ""},
	{"oauth2", "client_secret_param", takesOne, "a", ""},
	{"oauth2", "signing_key", takesOne, "{env.KEY}", ""},
	{"oauth2", "signing_key_id", takesOne, "a", ""},
	{"oauth2", "signing_alg", takesOne, "ES256", ""},
	{"oauth2", "assertion_audience", takesOne, "a", ""},
	{"oauth2", "assertion_typ", takesOneOrEmpty, "a", ""},
	{"oauth2", "assertion_claim", takesNameAndValue, "a b", ""},
	{"oauth2", "assertion_certificate", takesMany, "x5c x5t", ""},
	{"oauth2", "client_assertion_file", takesOne, "/a", ""},
	{"oauth2", "client_assertion_type", takesOne, "a", ""},
	{"oauth2", "client_certificate", takesOne, "{env.CERTIFICATE}", ""},
	{"oauth2", "client_certificate_key", takesOne, "{env.KEY}", ""},
	{"oauth2", "grant", takesOneOrEmpty, "a", ""},
	{"oauth2", "scope", takesMany, "a b", ""},
	{"oauth2", "scope_separator", takesOne, ",", ""},
	{"oauth2", "audience", takesOne, "a", ""},
	{"oauth2", "resource", takesMany, "a b", ""},
	{"oauth2", "param", takesNameAndValue, "a b", ""},
	{"oauth2", "json_param", takesNameAndValue, "a 1", ""},
	{"oauth2", "header", takesNameAndValue, "a b", ""},
	{"oauth2", "method", takesOne, "GET", ""},
	{"oauth2", "encoding", takesOne, "json", ""},
	{"response", "token", takesMany, "a b.0", ""},
	{"response", "token_type", takesMany, "a b", ""},
	{"response", "expires_in", takesOneOrTwo, "a ms", ""},
	{"response", "expires_at", takesOneOrTwo, "a rfc3339", ""},
	{"response", "refresh_in", takesOne, "a", ""},
	{"response", "default", takesDuration, "1m", ""},
	{"response", "keep", takesNameAndValue, "a b", ""},
	{"response", "error", takesMany, "a b", ""},
	{"response without retry", "retry", takesMany, "403 a", ""},
	{"response", "retry_text", takesOne, "a", ""},
	{"response", "retry_after", takesOne, "a", ""},
	{"transport", "ca", takesOne, "{env.CA}", ""},
	{"transport", "server_name", takesOne, "a", ""},
	{"transport", "proxy", takesOne, "none", ""},
	{"transport", "dial_timeout", takesDuration, "1m", ""},
	{"transport", "tls_renegotiation", takesOne, "once", ""},

	{"directive", "client_authorization", takesOne, "keep", ""},
	{"directive", "on_unauthorized", takesOne, "pass", ""},
	{"directive", "cross_site", takesOne, "allow", ""},
	{"directive", "forwarded", takesOne, "on", ""},
	{"directive", "replay_buffer", takesOne, "1KiB", ""},
	{"directive", "clients", takesMany, "any", ""},

	{"dev optoro", "client_id", takesOne, "a", ""},
	{"dev optoro", "client_secret", takesOne, "a", ""},
	{"dev optoro", "mode", takesOne, "reuse", ""},
	{"dev optoro", "lifetime", takesDuration, "1h", ""},
	{"dev elastic_path", "wrapped", takesNone, "", ""},
	{"dev optoro", "enforce_content_type", takesOne, "form", ""},
	{"dev optoro", "status", takesCount, "503", ""},
	{"dev optoro", "error", takesOne, "invalid_client", ""},
	{"dev optoro", "retry_after", takesOne, "1", "status 503"},
	{"dev optoro", "latency", takesDuration, "1s", ""},
	{"dev optoro", "hang", takesNone, "", ""},
	{"dev optoro", "reset", takesNone, "", ""},
	{"dev optoro", "garbage", takesOne, "redirect http://127.0.0.1:9999/", ""},
	{"dev optoro", "expires_in", takesOne, "0", ""},
	{"dev optoro", "count", takesCount, "1", "hang"},
	{"dev_api", "reject", takesCount, "403", ""},
}

// TestAdaptOptionMistakes makes, with every option there is, every mistake that can be made with an option of its
// kind. The error must have the option's line. (An option that is repeated or has too much, and of which one part is
// ignored, does not do what it says.)
func TestAdaptOptionMistakes(t *testing.T) {
	for _, o := range adaptOptions {
		t.Run(o.place+"/"+o.option, func(t *testing.T) {
			right := strings.TrimSpace(o.option + " " + o.value)
			input, line := withOption(o.place, o.beside, right)
			if _, err := adapt(input); err != nil {
				t.Fatalf("%s: refused without a mistake: %v", right, err)
			}
			t.Run("twice", func(t *testing.T) {
				if o.option == "param" || o.option == "audience" {
					t.Skip("several values are right")
				}
				input, _ := withOption(o.place, o.beside, right+"\n"+right)
				_, err := adapt(input)
				checkAdaptError(t, err, o.option, fmt.Sprintf("at Caddyfile:%d", line+1))
			})
			for _, wrong := range mistakes(o.kind, o.value) {
				t.Run(wrong, func(t *testing.T) {
					input, _ := withOption(o.place, o.beside, o.option+" "+wrong)
					_, err := adapt(input)
					checkAdaptError(t, err, fmt.Sprintf("at Caddyfile:%d", line))
				})
			}
		})
	}
}

// TestAdaptErrorsNameTheOption checks that each of these errors says which option it is about, and not only its line.
func TestAdaptErrorsNameTheOption(t *testing.T) {
	for _, o := range adaptOptions {
		for _, wrong := range mistakes(o.kind, o.value) {
			input, _ := withOption(o.place, o.beside, o.option+" "+wrong)
			if _, err := adapt(input); err != nil && !strings.Contains(err.Error(), o.option) {
				t.Errorf("%s: %s %s: the error does not name the option: %v", o.place, o.option, wrong, err)
			}
		}
	}
}

// mistakes returns wrong arguments.
func mistakes(kind optionKind, right string) []string {
	switch kind {
	case takesNone:
		return []string{"off", `""`}
	case takesOne:
		return []string{"", `""`, right + " surplus"}
	case takesOneOrEmpty:
		return []string{"", right + " surplus"}
	case takesNameAndValue:
		name, _, _ := strings.Cut(right, " ")
		return []string{"", name, `"" b`, right + " surplus"}
	case takesOneOrTwo:
		first, second, _ := strings.Cut(right, " ")
		return []string{"", `""`, `"" ` + second, first + ` ""`, right + " surplus"}
	case takesMany:
		return []string{"", `""`, right + ` ""`}
	case takesDuration:
		return []string{"", `""`, right + " surplus", "0", "0s", "-5s", "soon", "5", "1m30", "{env.D}"}
	case takesCount:
		return []string{"", `""`, right + " surplus", "0", "-1", "many", "1.5", "99999999999999999999"}
	default:
		panic("unknown kind")
	}
}

// ownSubdirectives are the subdirectives that reverse_proxy does not have, and what they become.
var (
	ownSubdirectives = []string{
		"client_authorization keep", "on_unauthorized pass", "rejected_status 401 498", "replay_buffer 8KiB", "clients 10.0.0.0/8 192.0.2.7", "cross_site allow", "forwarded on",
		"token_stub /login",
	}
	ownFields = map[string]any{
		"handler": "token_proxy", "credential": "catalog",
		"client_authorization": "keep", "on_unauthorized": "pass", "rejected_status": []any{401., 498.}, "replay_buffer": float64(8 << 10),
		"clients": []any{"10.0.0.0/8", "192.0.2.7"}, "cross_site": "allow", "forwarded": true, "token_stub": []any{"/login"},
	}
)

// reverseProxySubdirectives is at least one of each that reverse_proxy has. They can all stand in one block.
var reverseProxySubdirectives = []string{
	"to https://b.example.com:8443",
	"to https://c.example.com https://d.example.com",
	"dynamic srv {\n\tservice https\n\tproto tcp\n\tname example.com\n\trefresh 30s\n\tresolvers 192.0.2.53\n\tdial_timeout 1s\n\tdial_fallback_delay 1s\n\tgrace_period 1m\n}",
	"lb_policy header X-Upstream {\n\tfallback round_robin\n}",
	"lb_retries 3",
	"lb_try_duration 5s",
	"lb_try_interval 100ms",
	"lb_retry_match {\n\tmethod POST\n\tpath /clients/*\n}",
	"lb_retry_match method PUT",
	"health_uri /health",
	"health_port 9000",
	"health_interval 10s",
	"health_passes 2",
	"health_fails 3",
	"health_timeout 2s",
	"health_status 2xx",
	"health_body clients",
	"health_method HEAD",
	"health_request_body ping",
	"health_follow_redirects",
	"health_headers {\n\tX-Check one two\n\tclients any\n\ton_unauthorized pass\n\tX-Empty\n}",
	"fail_duration 10s",
	"max_fails 5",
	"unhealthy_status 5xx 429",
	"unhealthy_latency 3s",
	"unhealthy_request_count 100",
	"flush_interval -1",
	"request_buffers 4KiB",
	"response_buffers 8KiB",
	"stream_buffer_size 16KiB",
	"stream_timeout 1h",
	"stream_close_delay 5s",
	"verbose_logs",
	"proxy_status_name clients",
	"trusted_proxies private_ranges 192.0.2.1",
	"trusted_proxies",
	"header_up X-Set clients",
	"header_up -X-Gone",
	"header_up clients any",
	"header_up X-Replace \"a(.*)\" \"b$1\"",
	"header_up X-Brace \"{\"",
	"header_up X-Placeholder {http.request.uri.path}/{path}",
	"header_down +X-Add \"on_unauthorized pass\"",
	"header_down -Server",
	"method GET",
	"rewrite /base{uri}",
	"transport http {\n\tread_buffer 8KiB\n\tdial_timeout 2s\n\ttls\n\ttls_trust_pool file {\n\t\tpem_file /certs/ca.pem\n\t}\n\ttls_except_ports 9000\n\tkeepalive off\n\tversions 1.1 2\n\tnetwork_proxy none\n}",
	"@error {\n\tstatus 5xx\n\theader X-Retry *\n}",
	"@gone status 410",
	"@clients header clients any",
	"replace_status @gone 404",
	"replace_status 503",
	"handle_response @error {\n\tcopy_response_headers {\n\t\tinclude X-Retry\n\t\texclude Server\n\t}\n\tcopy_response 502 {\n\t}\n}",
	"handle_response @clients {\n\t@get method GET\n\trespond @get \"clients any\" 404\n\treverse_proxy 127.0.0.1:9000 {\n\t\theader_up clients any\n\t\thandle_response {\n\t\t\trespond \"on_unauthorized\"\n\t\t}\n\t}\n}",
	"handle_response {\n}",
	"handle_response {\n\trespond <<END\n\tclients any\n\tEND\n}",
	"# clients any\nlb_retries 4",
}

// upstreamsForms are what may stand between the directive's name, or credential, and its block.
var upstreamsForms = []string{
	"https://a.example.com", "https://a.example.com https://b.example.com:8443", "https://a.example.com \\\n\t\thttps://b.example.com",
}

// TestTokenProxyIsReverseProxy checks that whoever has a reverse_proxy line can change one word and add a name: the
// same block gives the same configuration, wherever subdirectives of our own stand in it.
func TestTokenProxyIsReverseProxy(t *testing.T) {
	for _, subdirective := range reverseProxySubdirectives {
		t.Run(strings.Fields(subdirective)[0], func(t *testing.T) {
			block := []string{subdirective}
			switch { // what it refers to
			case strings.Contains(subdirective, " @error"):
				block = []string{"@error status 5xx", subdirective}
			case strings.Contains(subdirective, " @gone"):
				block = []string{"@gone status 410", subdirective}
			case strings.Contains(subdirective, " @clients"):
				block = []string{"@clients header clients any", subdirective}
			}
			for _, upstreams := range upstreamsForms {
				compareToReverseProxy(t, upstreams, block)
			}
		})
	}
	t.Run("all", func(t *testing.T) { compareToReverseProxy(t, upstreamsForms[0], reverseProxySubdirectives) })
	t.Run("all without upstream", func(t *testing.T) { compareToReverseProxy(t, "", reverseProxySubdirectives) })
	t.Run("empty block", func(t *testing.T) { compareToReverseProxy(t, upstreamsForms[0], nil) })
	for _, upstreams := range []string{
		"127.0.0.1:9080", "http://127.0.0.1", "unix//run/api.sock", "unix+h2c//run/api.sock", "h2c://127.0.0.1:9080", "127.0.0.1:9080-9082",
		"{http.request.header.X-Shard}.example.com:443", "api.example.com:{http.request.header.X-Port}", "[::1]:9080", ":9080", "localhost",
	} {
		t.Run(upstreams, func(t *testing.T) { compareToReverseProxy(t, upstreams, []string{"lb_retries 1", "lb_policy first"}) })
	}
}

// compareToReverseProxy puts our own subdirectives at all places of the block, one after the other.
func compareToReverseProxy(t *testing.T, upstreams string, block []string) {
	t.Helper()
	want := adaptedServers(t, "reverse_proxy "+upstreams, block)
	for shift := range len(block) + 1 {
		mixed := slices.Clone(block)
		for i, own := range ownSubdirectives {
			// The i-th of ours comes before what was the ((shift+i) % (len+1))-th, whatever of ours is there already.
			at := (shift + i) % (len(block) + 1)
			place := len(mixed)
			if at < len(block) {
				place = slices.Index(mixed, block[at])
			}
			mixed = slices.Insert(mixed, place, own)
		}
		got := adaptedServers(t, "token_proxy catalog "+upstreams, mixed)
		if n := makeReverseProxy(t, got); n != 1 {
			t.Errorf("%d token_proxy handlers in %v", n, got)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s\ngot  %v\nwant %v", strings.Join(mixed, "\n"), got, want)
		}
	}
}

// adaptedServers adapts a site with one directive, below the global option that it needs.
func adaptedServers(t *testing.T, directive string, block []string) any {
	t.Helper()
	input := siteHead + "\t" + directive + " {\n" + strings.Join(block, "\n") + "\n}\n}\n"
	config, err := adapt(input)
	if err != nil {
		t.Fatalf("%s\n%v", input, err)
	}
	var root struct {
		Apps struct {
			HTTP struct{ Servers any }
		}
	}
	if err := json.Unmarshal(config, &root); err != nil {
		t.Fatal(err)
	}
	if root.Apps.HTTP.Servers == nil {
		t.Fatalf("no servers in %s", config)
	}
	return root.Apps.HTTP.Servers
}

// makeReverseProxy turns each token_proxy handler into what reverse_proxy would have become, in place. It returns how
// many there were.
func makeReverseProxy(t *testing.T, config any) (handlers int) {
	t.Helper()
	switch c := config.(type) {
	case []any:
		for _, element := range c {
			handlers += makeReverseProxy(t, element)
		}
	case map[string]any:
		if c["handler"] == "token_proxy" {
			handlers++
			for field, want := range ownFields {
				if !reflect.DeepEqual(c[field], want) {
					t.Errorf("%s is %v, want %v", field, c[field], want)
				}
				delete(c, field)
			}
			c["handler"] = "reverse_proxy"
		}
		for _, name := range slices.Sorted(maps.Keys(c)) {
			handlers += makeReverseProxy(t, c[name])
		}
	}
	return handlers
}

// TestTokenProxyRefusesWhatReverseProxyRefuses checks that the error of a mistake in one of reverse_proxy's
// subdirectives is the same one, with the same line, but for a word that could be a secret, whether or not subdirectives of
// our own stand around it.
func TestTokenProxyRefusesWhatReverseProxyRefuses(t *testing.T) {
	for _, mistake := range []string{
		"nonsense", "lb_retries", "lb_retries many", "lb_retries 1 2", "lb_policy nonsense", "to ftp://a.example.com", "to",
		"transport nonsense", "transport http {\n\tnonsense\n}", "transport http {\n\treplay_buffer 1KiB\n}",
		"handle_response @missing {\n}", "handle_response {\n\tnonsense\n}", "@m {\n\tnonsense 1\n}",
		"health_port 9000 {\n\tclients any\n}", "lb_retry_match {\n\tnonsense\n}", "dynamic nonsense", "replace_status",
		"verbose_logs\nverbose_logs", "request_buffers clients any",
	} {
		t.Run(mistake, func(t *testing.T) {
			refusal := func(directive, before, after string) string {
				t.Helper()
				_, err := adapt(siteHead + "\t" + directive + " https://a.example.com {\n" + before + "\n" + mistake + "\n" + after + "\n}\n}\n")
				if err == nil {
					t.Fatalf("%s accepts %q", directive, mistake)
				}
				return err.Error()
			}
			same := func(text string) string { return strings.ReplaceAll(text, "token_proxy", "reverse_proxy") }
			want := same(option.HideSubdirective(errors.New(refusal("reverse_proxy", "lb_try_duration 1s", "lb_try_interval 1s"))).Error())
			for _, own := range ownSubdirectives {
				if got := same(refusal("token_proxy catalog", own, "lb_try_interval 1s")); got != want {
					t.Errorf("after %s: got %s, want %s", own, got, want)
				}
				if got := same(refusal("token_proxy catalog", "lb_try_duration 1s", own)); got != want {
					t.Errorf("before %s: got %s, want %s", own, got, want)
				}
			}
		})
	}
}

// TestCaddyfileExampleIsTidy checks that the example at the top of the repository adapts without a complaint, and is
// written as `caddy fmt` writes it.
func TestCaddyfileExampleIsTidy(t *testing.T) {
	content, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := adaptWithWarnings(string(content))
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range warnings {
		if !strings.Contains(warning.Message, "not formatted") {
			t.Errorf("warning: %s", warning.Message)
		}
	}
	if formatted := caddyfile.Format(content); !bytes.Equal(formatted, content) {
		t.Errorf("caddy fmt would change it to\n%s", formatted)
	}
}
