package systemtest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// browser is a headless browser under the control of the W3C WebDriver protocol.
type browser struct {
	t       *testing.T // the running one, for what goes wrong
	session string     // its URL
	client  *http.Client
	origin  string // of the page
}

const ( // as WebDriver numbers the keys, https://www.w3.org/TR/webdriver2/#keyboard-actions
	keyBackspace = "\uE003"
	keyTab       = "\uE004"
	keyEnter     = "\uE007"
	keyEscape    = "\uE00C"
)

func startBrowser(t *testing.T) *browser {
	find := func(names ...string) string {
		for _, name := range names {
			if path, err := exec.LookPath(name); err == nil {
				return path
			}
		}
		message := "NOT TESTED: " + t.Name() + ", because there is no " + strings.Join(names, " or ") + " on this machine"
		fmt.Fprintln(os.Stderr, message)
		t.Skip(message)
		return ""
	}
	if testing.Short() {
		t.Skip("starts a browser")
	}
	chromium := find("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
	addr := caddytest.FreeAddr(t) // with port 0, chromedriver ends if another program has its IPv6 port in IPv4
	driver := exec.Command(find("chromedriver"), "--port="+portOf(addr))
	output, err := driver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	listens, ended := make(chan struct{}), make(chan struct{})
	var written strings.Builder // read once the driver has ended
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			fmt.Fprintln(&written, lines.Text())
			if strings.Contains(lines.Text(), "started successfully") {
				close(listens)
			}
		}
		_ = driver.Wait()
	}()
	b := &browser{t: t, client: &http.Client{Timeout: patience, Transport: &http.Transport{}}}
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		_ = driver.Process.Kill()
		<-ended
	})
	select {
	case <-listens:
		b.session = "http://" + addr + "/session"
	case <-ended:
		t.Fatalf("chromedriver ended before it listened: %s", &written)
	case <-time.After(patience):
		t.Fatal("chromedriver does not listen")
	}

	profile, err := os.MkdirTemp("", "page-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	var session struct{ SessionID string }
	b.call(http.MethodPost, "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"goog:chromeOptions": map[string]any{
			"binary": chromium,
			"args": []string{
				"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
				"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--lang=en",
				// One process draws all pages, or else the start of hundreds would take most of the time. What a page may ask
				// for and read is decided in another one.
				"--renderer-process-limit=1", "--disable-site-isolation-trials",
				"--disable-features=BackForwardCache,IsolateOrigins,ProactivelySwapBrowsingInstance,SpareRendererForSitePerProcess,site-per-process",
				"--host-resolver-rules=MAP *.example 127.0.0.1", "--user-data-dir=" + profile,
			},
		},
		"goog:loggingPrefs": map[string]string{"browser": "ALL", "performance": "ALL"},
	}}}, &session)
	b.session += "/" + session.SessionID
	t.Cleanup(func() {
		b.t = t
		b.call(http.MethodDelete, "", nil, nil) // ends the browser
	})
	b.resize(1280, 900)
	b.scheme("light")
	b.navigate("about:blank")
	b.call(http.MethodPost, "/se/log", map[string]string{"type": "performance"}, nil) // forgets the new tab's own page
	return b
}

// call makes one call to the driver. Its answer is {"value": …}.
func (b *browser) call(method, path string, body, value any) {
	b.t.Helper()
	if err := b.try(method, path, body, value); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) try(method, path string, body, value any) error {
	var content bytes.Buffer
	if method == http.MethodPost {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequest(method, b.session+path, &content)
	if err != nil {
		return err
	}
	w, err := b.client.Do(r)
	if err != nil {
		return err
	}
	defer w.Body.Close()
	var answer struct{ Value json.RawMessage }
	if err := json.NewDecoder(w.Body).Decode(&answer); err != nil {
		return err
	}
	if w.StatusCode != http.StatusOK {
		var e struct{ Error, Message string }
		_ = json.Unmarshal(answer.Value, &e)
		return fmt.Errorf("%s %s: %s: %s", method, path, e.Error, e.Message)
	}
	if value == nil {
		return nil
	}
	return json.Unmarshal(answer.Value, value)
}

// cdp gives a command that WebDriver has no words for.
func (b *browser) cdp(command string, params map[string]any, value any) {
	b.t.Helper()
	if params == nil {
		params = map[string]any{}
	}
	b.call(http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": command, "params": params}, value)
}

func (b *browser) resize(width, height int) {
	b.t.Helper()
	b.cdp("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

func (b *browser) scheme(name string) {
	b.t.Helper()
	b.cdp("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
		{"name": "prefers-color-scheme", "value": name}, {"name": "prefers-reduced-motion", "value": "reduce"},
	}}, nil)
}

func (b *browser) navigate(to string) {
	b.t.Helper()
	b.call(http.MethodPost, "/url", map[string]string{"url": to}, nil)
}

// stayAt is navigate, unless the browser shows that page already. A navigation takes much more of the processor than a look.
func (b *browser) stayAt(page string) {
	b.t.Helper()
	if b.eval("location.href") != page {
		b.navigate(page)
	}
}

// eval gives the value of a JavaScript expression, and run runs statements.
func (b *browser) eval(expression string) any {
	b.t.Helper()
	var value any
	b.call(http.MethodPost, "/execute/sync", map[string]any{"script": "return " + expression, "args": []any{}}, &value)
	return value
}

func (b *browser) run(script string) {
	b.t.Helper()
	b.call(http.MethodPost, "/execute/sync", map[string]any{"script": script, "args": []any{}}, nil)
}

func (b *browser) strings(expression string) []string {
	b.t.Helper()
	var value []string
	b.call(http.MethodPost, "/execute/sync", map[string]any{"script": "return " + expression, "args": []any{}}, &value)
	return value
}

// pageGlance is between two looks at the page while a test waits for it to change.
const pageGlance = 25 * time.Millisecond

// wait polls until the expression is true.
func (b *browser) wait(what, expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); b.eval("Boolean("+expression+")") != true; time.Sleep(pageGlance) {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain for %s: %s\n%s", what, expression, b.eval("document.body.innerText"))
		}
	}
}

// waitText waits for text that can be seen in an element and matches a regular expression, or holds it literally.
func (b *browser) waitText(selector, want string) {
	b.t.Helper()
	b.wait(selector+" to say "+want, `((text, want) => text.includes(want) || new RegExp(want).test(text))((document.querySelector(`+jsString(selector)+`)?.innerText ?? "").replace(/\s+/g, " "), `+jsString(want)+`.replace(/\s+/g, " "))`)
}

func (b *browser) visible(selector string) bool {
	b.t.Helper()
	return b.eval(`Boolean(document.querySelector(`+jsString(selector)+`)?.checkVisibility({visibilityProperty: true}))`) == true
}

func (b *browser) attribute(selector, name string) string {
	b.t.Helper()
	value, _ := b.eval(`document.querySelector(` + jsString(selector) + `).getAttribute(` + jsString(name) + `)`).(string)
	return value
}

// click clicks with the mouse, which fails if something else is in the way.
func (b *browser) click(selector string) {
	b.t.Helper()
	var element map[string]string
	b.call(http.MethodPost, "/element", map[string]string{"using": "css selector", "value": selector}, &element)
	for _, id := range element {
		b.call(http.MethodPost, "/element/"+id+"/click", map[string]any{}, nil)
	}
}

// keys presses keys, whatever has the focus.
func (b *browser) keys(text string) {
	b.t.Helper()
	var actions []map[string]string
	for _, key := range text {
		actions = append(actions, map[string]string{"type": "keyDown", "value": string(key)}, map[string]string{"type": "keyUp", "value": string(key)})
	}
	b.call(http.MethodPost, "/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard", "actions": actions}}}, nil)
}

func (b *browser) wantFocus(selector string) {
	b.t.Helper()
	b.wait("the focus on "+selector, `document.activeElement === document.querySelector(`+jsString(selector)+`)`)
}

// wantNoSideways fails if the page is wider than the window.
func (b *browser) wantNoSideways() {
	b.t.Helper()
	if wide := b.strings(`document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")].filter(n => n.getBoundingClientRect().right > innerWidth && !n.closest("pre")).map(n => n.tagName + "." + n.className)`); len(wide) > 0 {
		b.t.Errorf("wider than the window: %q", wide)
	}
}

// wantQuietLogs fails if the page asked any other origin for something, or did what its policy forbids, or threw.
func (b *browser) wantQuietLogs() {
	b.t.Helper()
	type entry struct{ Level, Message, Source string }
	var console, network []entry
	b.call(http.MethodPost, "/se/log", map[string]string{"type": "browser"}, &console)
	for _, e := range console {
		if e.Source != "network" { // it tells of answers like 502, which tests provoke
			b.t.Errorf("console: %s: %s", e.Level, e.Message)
		}
	}
	b.call(http.MethodPost, "/se/log", map[string]string{"type": "performance"}, &network)
	requests := 0
	for _, e := range network {
		var event struct {
			Message struct {
				Method string
				Params struct{ Request struct{ URL string } }
			}
		}
		if err := json.Unmarshal([]byte(e.Message), &event); err != nil {
			b.t.Fatal(err)
		}
		if event.Message.Method != "Network.requestWillBeSent" {
			continue
		}
		requests++
		u, err := url.Parse(event.Message.Params.Request.URL)
		if err != nil || u.Scheme != "data" && u.Scheme != "about" && u.Hostname() != "127.0.0.1" {
			b.t.Errorf("a request to %s", event.Message.Params.Request.URL)
		}
	}
	if requests == 0 && b.origin != "" && !b.t.Skipped() {
		b.t.Error("no request was seen")
	}
}

func (b *browser) screenshot(path string) {
	b.t.Helper()
	var size struct{ Width, Height float64 }
	b.call(http.MethodPost, "/execute/sync", map[string]any{"script": "return {Width: innerWidth, Height: Math.min(Math.max(document.body.scrollHeight, innerHeight), 2600)}", "args": []any{}}, &size)
	var picture struct{ Data string }
	b.cdp("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true, "clip": map[string]any{"x": 0, "y": 0, "width": size.Width, "height": size.Height, "scale": 1}}, &picture)
	content, err := base64.StdEncoding.DecodeString(picture.Data)
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		b.t.Error(err)
	}
}

func jsString(text string) string {
	quoted, _ := json.Marshal(text) // a string: it cannot fail, and JSON's strings are JavaScript's
	return string(quoted)
}
