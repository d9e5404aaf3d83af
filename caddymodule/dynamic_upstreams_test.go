package caddymodule

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// newDNS answers from a map of names, without their dot at the end, to what they stand for: an IPv4 address, or
// host:port for SRV. It returns its address, and counts the questions for SRV records.
func newDNS(t *testing.T, records map[string]string) (addr string, asked *atomic.Int64) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || len(m.Questions) == 0 {
				continue
			}
			q := m.Questions[0]
			if q.Type == dnsmessage.TypeSRV {
				asked.Add(1)
			}
			reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions[:1]}
			header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
			value, known := records[strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")]
			switch ip := net.ParseIP(value).To4(); {
			case !known:
				reply.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA && ip != nil:
				reply.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte(ip)}}}
			case q.Type == dnsmessage.TypeSRV && ip == nil:
				host, port, _ := net.SplitHostPort(value)
				n, _ := net.LookupPort("tcp", port)
				reply.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.SRVResource{Target: dnsmessage.MustNewName(host + "."), Port: uint16(n)}}}
			}
			if packed, err := reply.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().String(), asked
}

// The name that the operator wrote counts as the destination, as that of a static upstream does.
func TestDynamicUpstreams(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.api().ServeHTTP)
	port := portOfURL(t, api.URL)
	dns, _ := newDNS(t, map[string]string{
		"api.test": "127.0.0.1", "evil.test": "127.0.0.1", "_http._tcp.api.test": "target.test:" + port, "target.test": "127.0.0.1",
	})
	a := func(name string) string {
		return "dynamic a " + name + " " + port + " {\n versions ipv4\n resolvers " + dns + "\n refresh 1ns\n}\n"
	}
	srv := "dynamic srv _http._tcp.api.test {\n resolvers " + dns + "\n refresh 1ns\n}\ntransport http {\n resolvers " + dns + "\n}\n"
	for name, tc := range map[string]struct {
		hosts, option, dynamic string
		status                 int
	}{
		"localhost":                       {"localhost", "", "dynamic a localhost " + port + " {\n versions ipv4\n}\n", 200},
		"a name":                          {"api.test", "", a("api.test"), 200},
		"a name with its port":            {"api.test:" + port, "", a("api.test"), 200},
		"a name with another port":        {"api.test:1", "", a("api.test"), 502},
		"another name":                    {"api.test", "", a("evil.test"), 502},
		"the address":                     {"127.0.0.1", "", a("evil.test"), 200},
		"a range of addresses":            {"127.0.0.0/8", "", a("evil.test"), 200},
		"another range of addresses":      {"10.0.0.0/8", "", a("evil.test"), 502},
		"the name of the request":         {"api.test", "", a("{header.X-Name}"), 200},
		"srv":                             {"_http._tcp.api.test", "allow_plaintext", srv, 200},
		"srv, in the clear":               {"_http._tcp.api.test", "", srv, 502},
		"srv, by its target":              {"target.test", "allow_plaintext", srv, 200},
		"srv, other name":                 {"_http._tcp.evil.test", "allow_plaintext", srv, 502},
		"multi":                           {"api.test", "", "dynamic multi {\n" + strings.ReplaceAll(a("missing.test")+a("api.test"), "dynamic ", "") + "}\n", 200},
		"multi, another name":             {"api.test", "", "dynamic multi {\n" + strings.ReplaceAll(a("evil.test"), "dynamic ", "") + "}\n", 502},
		"multi, another name comes first": {"api.test", "", "dynamic multi {\n" + strings.ReplaceAll(a("evil.test")+a("api.test"), "dynamic ", "") + "}\nlb_policy first\n", 502},
	} {
		t.Run(name, func(t *testing.T) {
			before := api.connectionCount()
			_, base := startProxy(t, tokens.credential("api", "api_hosts "+tc.hosts, tc.option), "token_proxy api {\n client_authorization keep\n"+tc.dynamic+"}")
			answer := get(t, base, "X-Name", "api.test")
			if tc.status == 200 {
				answer.wantStatus(t, 200)
				get(t, base, "X-Name", "api.test", "Authorization", "Bearer mine").wantStatus(t, 401)
				return
			}
			answer.wantProblem(t, 502, "proxy_configuration_error")
			get(t, base, "X-Name", "api.test", "Authorization", "Bearer mine").wantProblem(t, 502, "proxy_configuration_error")
			if n := api.connectionCount(); n != before {
				t.Errorf("the upstream was connected to")
			}
		})
	}

	// A name that comes with the request is judged for that request.
	_, base := startProxy(t, tokens.credential("api", "api_hosts api.test"), "token_proxy api {\n"+a("{header.X-Name}")+"}")
	for range 2 {
		get(t, base, "X-Name", "api.test").wantStatus(t, 200)
		get(t, base, "X-Name", "evil.test").wantProblem(t, 502, "proxy_configuration_error")
		get(t, base, "X-Name", "{http.request.header.X-Other}", "X-Other", "evil.test").wantProblem(t, 502, "proxy_configuration_error")
	}
}

// After a failure, reverse_proxy has a source of SRV records ask again.
func TestDynamicSourceClearsItsCache(t *testing.T) {
	tokens := newTokenServer(t)
	name := "_http._tcp." + newClientID() + ".test" // reverse_proxy's cache outlives the test
	dns, asked := newDNS(t, map[string]string{name: "target.test:1", "target.test": "127.0.0.1"})
	_, base := startProxy(t, tokens.credential("api", "api_hosts "+name, "allow_plaintext"),
		"token_proxy api {\n dynamic srv "+name+" {\n resolvers "+dns+"\n}\n lb_retries 2\n transport http {\n resolvers "+dns+"\n}\n}")
	get(t, base).wantStatus(t, 502)
	if n := asked.Load(); n != 3 {
		t.Errorf("%d lookups for three tries", n)
	}
}

func TestConfigDynamicUpstreams(t *testing.T) {
	for name, tc := range map[string]struct {
		source string
		wants  []string
	}{
		"no source":              {`{"name": "api.example.com"}`, []string{"source"}},
		"unknown source":         {`{"source": "consul"}`, []string{"consul"}},
		"unknown field":          {`{"source": "a", "nmae": "x"}`, []string{"nmae"}},
		"unknown field of multi": {`{"source": "multi", "srcs": []}`, []string{"srcs"}},
		"unknown one of multi":   {`{"source": "multi", "sources": [{"source": "consul"}]}`, []string{"consul"}},
		"multi null":             {`{"source": "multi", "sources": null}`, nil},
		"multi":                  {`{"source": "multi", "sources": [{"source": "a", "name": "x", "port": "1"}, {"source": "srv", "name": "y"}]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			credential := strings.TrimSuffix(goodCredential, "}") + `, "api_hosts": ["api.example.com"]}`
			err := validateJSON(configJSON(nowhere, credential, `{"handler": "token_proxy", "credential": "catalog", "dynamic_upstreams": `+tc.source+`}`))
			if tc.wants == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefused(t, err, tc.wants...)
		})
	}
}
