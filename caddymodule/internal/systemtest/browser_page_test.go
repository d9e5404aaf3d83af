package systemtest

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/httpsproxy"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// screenshotsVariable names a folder for pictures of the page. They are for people: nothing compares them.
const screenshotsVariable = "TOKEN_PROXY_SCREENSHOTS"

// The page is driven as a person drives it: in a real browser, through WebDriver, against a made-up admin API.
func TestPage(t *testing.T) {
	if apart.Run(t) { // which starts it first: no other test takes that long
		return
	}
	b := startBrowser(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *browser)
	}{
		{"Empty", testPageEmpty},
		{"One", testPageOne},
		{"Twelve", testPageTwelve},
		{"TwoHundred", testPageTwoHundred},
		{"Failures", testPageFailures},
		{"Sharing", testPageSharing},
		{"Tenants", testPageTenants},
		{"HTTPS_PROXY", testPageHTTPSProxy},
		{"Refresh", testPageRefresh},
		{"Purge", testPagePurge},
		{"PurgeAll", testPagePurgeAll},
		{"Keyboard", testPageKeyboard},
		{"KeepsCurrent", testPageKeepsCurrent},
		{"Clock", testPageClock},
		{"Hidden", testPageHidden},
		{"APIDown", testPageAPIDown},
		{"APIRefuses", testPageAPIRefuses},
		{"Hostile", testPageHostile},
		{"Contrast", testPageContrast},
		{"Names", testPageNames},
		{"Narrow", testPageNarrow},
		{"Screenshots", testPageScreenshots},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			defer func() { b.t = nil }()
			test.run(t, b)
			b.navigate("about:blank") // ends its polling
			b.wantQuietLogs()
		})
	}
}

func testPageEmpty(t *testing.T, b *browser) {
	b.open(newPageAPI(t))
	b.waitText("#summary", "No credentials are configured")
	b.waitText("#empty", "credential catalog {")
	if b.visible("#purge-all") || b.visible("#filter") {
		t.Error("buttons without anything to act on are shown")
	}
}

func testPageOne(t *testing.T, b *browser) {
	b.open(newPageAPI(t, healthy("catalog")))
	b.waitText("#summary", "catalog is fine")
	if title := b.title(); title != "catalog is fine · token-proxy" {
		t.Errorf("title: %q", title)
	}
	for _, want := range []string{"optoro · auth.example.com", "OK", "Fresh · refresh in 30 min", "42 min of 60 min left|42 min of 1 h left", "929998b5", "Token obtained"} {
		b.waitText("#list > li", want)
	}
	if got := b.attribute("#list .head [role=meter]", "aria-valuetext"); !strings.Contains(got, "left; refresh in 30 min, at 12 min left") {
		t.Errorf("the bar says %q", got)
	}
	if left, point := b.eval(`Number(getComputedStyle(document.querySelector(".life .bar")).getPropertyValue("--left"))`).(float64), b.eval(`getComputedStyle(document.querySelector(".life .bar")).getPropertyValue("--point")`); left < 0.695 || left > 0.706 || point != "0.200" {
		t.Errorf("the bar shows %v left and the refresh point at %v", left, point)
	}
	if b.attribute("#list h2 button", "aria-expanded") != "true" {
		t.Error("a single credential is not shown in full")
	}
}

func testPageTwelve(t *testing.T, b *browser) {
	cs := manyCredentials(12)
	cs[4] = wrongSecret("catalog")
	cs[7] = rateLimited("aardvark")
	b.open(newPageAPI(t, cs...))
	b.waitText("#summary", "10 of 12 credentials are fine; catalog fails; aardvark is degraded")
	names := b.strings(`[...document.querySelectorAll("#list > li .name")].map(n => n.textContent)`)
	if len(names) != 12 || names[0] != "catalog" || names[1] != "aardvark" || names[11] != "tenant-008" || !slices.IsSorted(names[2:11]) {
		t.Errorf("order: %q", names)
	}
	if open := b.eval(`document.querySelectorAll("#list [aria-expanded=true]").length`); open != 0.0 {
		t.Errorf("%v of 12 rows are open", open)
	}
	if shapes := b.strings(`[...new Set([...document.querySelectorAll("#list .head > svg:first-child use")].map(u => u.getAttribute("href")))]`); len(shapes) < 3 {
		t.Errorf("health has the shapes %q", shapes)
	}
}

func testPageTwoHundred(t *testing.T, b *browser) {
	cs := manyCredentials(200)
	cs[123] = endpointDown("needle")
	b.open(newPageAPI(t, cs...))
	b.waitText("#summary", "199 of 200 credentials are fine; needle fails")
	b.waitText("#list > li:first-child", "needle")
	b.click("#filter")
	b.keys("tenant-19")
	b.waitText("#shown", "Showing 10 of 200.")
	b.keys("zzz")
	b.waitText("#shown", "No credential matches.")
	b.run(`document.querySelector("#filter").select()`)
	b.keys("needle failing")
	b.waitText("#shown", "Showing 1 of 200.")
	b.run(`document.querySelector("#filter").select()`)
	b.keys(keyBackspace)
	b.waitText("#chips", "1 failing")
	b.click("#chips [data-health=failing]")
	b.waitText("#shown", "Showing 1 of 200.")
	b.click("#chips [data-health=failing]")
	b.wait("all rows", `document.querySelectorAll("#list > li:not([hidden])").length === 200`)
	// The shortest of five, because other programs hold the processor now and then.
	if ms := b.eval(`Math.min(...[1, 2, 3, 4, 5].map(() => { const from = performance.now(); tick(); return performance.now() - from; }))`).(float64); ms > 100 {
		t.Errorf("a tick takes %.0f ms", ms)
	}
}

// A person who sees the page alone is told what is wrong and what to do.
func testPageFailures(t *testing.T, b *browser) {
	for _, f := range pageFailures {
		api := newPageAPI(t, f.make("billing"), healthy("catalog"))
		b.open(api)
		c := api.get("billing")
		fine := map[string]string{"failing": "billing fails", "degraded": "billing is degraded"}[c.Health]
		b.waitText("#summary", "1 of 2 credentials is fine; "+fine)
		first := "#list > li:first-child"
		b.waitText(first, c.Summary)
		b.waitText(first, "What to do: "+c.Advice)
		if c.NextTry != nil {
			b.waitText(first, "held back; the next try is in")
		}
		if c.LastError != nil {
			b.waitText(first+" .error", c.LastError.Reason)
		}
		if f.name == "demanding-api" {
			b.waitText(first+" .recent", "API demands more")
		}
		b.click(first + " h2 button")
		if !b.visible(first+" .what") || !b.visible(first+" .todo") {
			t.Errorf("%s: what to do is not seen in a closed row", f.name)
		}
	}
}

// What keeps a replica from sharing is seen, and so is a token that comes from another replica.
func testPageSharing(t *testing.T, b *browser) {
	shared := func(name string, share pageShare) pageCredential {
		c := healthy(name)
		share.On = true
		c.Share = &share
		return c
	}
	adopted := shared("adopted", pageShare{Up: true, From: "another replica"})
	adopted.Recent = append(adopted.Recent, pageFetch{At: time.Now(), Outcome: "adopted", Lifetime: 3600, Fingerprint: "929998b5"})
	down := shared("down", pageShare{From: "here", LastError: "the server does not accept the password"})
	alone := healthy("alone")
	alone.Share = new(pageShare)
	api := newPageAPI(t, adopted, down, alone, healthy("plain"),
		shared("unopened", pageShare{Up: true, From: "here", Unopened: "key"}), shared("skewed", pageShare{Up: true, From: "here", Skew: 61.5}))
	b.open(api)
	b.waitText("li[data-name=adopted] .where", "optoro · auth.example.com · token from another replica")
	if b.eval(`document.querySelector("li[data-name=down] .where").textContent.includes("replica")`) == true {
		t.Error("the page takes the token of this replica for that of another")
	}
	for name, want := range map[string]string{
		"adopted": "token from another replica; the store works", "alone": "no, each replica has a token of its own",
		"down":     "token from here; the store does not work: the server does not accept the password",
		"unopened": "what another replica has left cannot be opened", "skewed": "another clock is 1 min 1 s ahead",
	} {
		b.click("li[data-name=" + name + "] h2 button")
		b.waitText("li[data-name="+name+"] .shared", want)
	}
	b.click("li[data-name=plain] h2 button")
	if b.visible("li[data-name=plain] .shared") {
		t.Error("a credential without sharing has a line about it")
	}
	b.waitText("li[data-name=adopted] .recent", "Token adopted from another replica")

	api.purge = &pagePurge{"failed", "The record in the store is not deleted."}
	b.click("li[data-name=down] .purge")
	b.waitText("#ask", "Other replicas keep their token.")
	b.click("#ask-yes")
	b.waitText("li[data-name=down] .said", "Purged. The record in the store is not deleted.")
	b.click("#purge-all")
	b.click("#ask-yes")
	b.waitText("#note", "1 of 2 shared tokens are purged in this process only.")
	api.purge = &pagePurge{"deleted", "The record in the store is deleted."}
	b.click("#purge-all")
	b.click("#ask-yes")
	b.waitText("#note", "Other replicas keep their tokens until they need the next ones.")
}

// Of a credential with tenants, the page shows numbers and the latest failures, and it purges all of them at once.
func testPageTenants(t *testing.T, b *browser) {
	api := newPageAPI(t, platform("shops"))
	b.open(api)
	row := "li[data-name=shops]"
	b.waitText("#summary", "shops is degraded")
	b.waitText(row+" .life .state", "4,190 tenants have a valid token")
	b.waitText(row+" .left", "4,203 of 10,000 places taken")
	b.waitText(row+" .tenants", "4,100 with a fresh token, 90 with a stale token, 1 with an expired token, 12 without a token, 3 failing")
	if got := b.attribute(row+" .life .bar", "aria-valuetext"); got != "4,203 of 10,000 places taken" {
		t.Errorf("the bar says %q", got)
	}
	if fill := b.eval(`Number(getComputedStyle(document.querySelector(".life .bar")).getPropertyValue("--left"))`); fill != 0.42 {
		t.Errorf("the bar shows %v", fill)
	}
	b.waitText(row+" .counts", "1,250 unknown, 2 too many at once")
	b.waitText(row+" .counts", "7 for other tenants")
	for entry, want := range map[string]string{"first": "acme", "last": "globex"} {
		b.waitText(row+" .failures li:"+entry+"-child", want)
		b.waitText(row+" .failures li:"+entry+"-child", "Credential refused: the token endpoint refused the request \\(HTTP 401, invalid_client\\)")
	}
	b.waitText(row+" .failures li:last-child", "A token was obtained since.")
	if b.visible(row + " .error") {
		t.Error("the last error is there twice")
	}
	b.waitText(row+" .recent li:first-child", "tenant acme")
	if b.visible(row + " .refresh") {
		t.Error("all tenants can be refreshed at once")
	}

	b.click(row + " h2 button") // closes it
	b.waitText(row+" .brief .state", "4,190 tenants have a valid token")
	b.click(row + " h2 button")
	b.click(row + " .purge")
	b.waitText("#ask", "Purge the tokens of all tenants of shops\\?")
	b.waitText("#ask", "The next request of each tenant fetches a new token; requests wait for it.")
	b.waitText("#ask", "requests fail, although the present token would still work")
	b.click("#ask-yes")
	b.waitText(row+" .said", "Purged. The next request of each tenant fetches a new token.")

	fine := healthy("shops").without() // the first place is taken, and nothing has failed
	fine.Tenants = &pageTenants{Count: 1, Max: 1, States: map[string]int{"none": 0, "fresh": 1, "stale": 0, "rejected": 0, "expired": 0}, Refusals: map[string]int{}, Failures: []pageFetch{}}
	api.set(fine)
	b.pollNow()
	b.waitText("#summary", "shops is fine")
	b.waitText(row+" .life .state", "1 tenant has a valid token")
	b.waitText(row+" .left", "1 of 1 place taken")
	if b.visible(row + " .life .bar b") {
		t.Error("the bar of places has a refresh point")
	}
	if b.visible(row + " .failures") {
		t.Error("failures are shown, although there are none")
	}
	api.set(healthy("shops")) // a reload has made it a credential without tenants
	b.pollNow()
	b.waitText(row+" .life", "Token")
	b.waitText(row+" .left", "left")
	if !b.visible(row+" .refresh") || b.visible(row+" .tenants") || b.attribute(row+" .life .bar", "aria-label") != "Remaining lifetime of shops" {
		t.Error("something of the tenants is left")
	}
}

func testPageHTTPSProxy(t *testing.T, b *browser) {
	b.open(newPageAPI(t, healthy("catalog")))
	b.waitText("#list", "catalog")
	if b.visible("#https-proxy") {
		t.Error("a process without https_proxy has a line about it")
	}
	api := newPageAPI(t, healthy("catalog"))
	api.proxy = httpsproxy.Status{
		Listeners:  []httpsproxy.ListenerStatus{{Address: "127.0.0.1:3128"}},
		Requests:   map[string]uint64{"site": 1200, "tunnel": 3, "http": 1, "unreachable": 0},
		Denied:     map[string]uint64{"host": 4, "sni": 1},
		LastDenied: &httpsproxy.Denial{Host: "<b>other.example.com", Reason: "host", At: time.Now().Add(-3 * time.Minute)},
		Tunnels:    2,
	}
	b.open(api)
	b.waitText("#https-proxy", "HTTPS_PROXY at 127.0.0.1:3128 · 1,200 connections to sites · 1 http:// request · 3 tunnels (2 open) · 5 denied, the last for <b>other.example.com 3 min")
	b.waitText("#https-proxy", "ago: no site, and not allowed by tunnel")
}

func testPageRefresh(t *testing.T, b *browser) {
	api := newPageAPI(t, healthy("catalog"))
	release := make(chan struct{})
	api.refresh = func(c *pageCredential) error {
		<-release
		c.Fingerprint = "0000aaaa"
		return nil
	}
	b.open(api)
	b.click(".refresh")
	b.waitText(".said", "Asking the token endpoint…")
	if b.attribute(".refresh", "aria-disabled") != "true" {
		t.Error("the button can be pressed again")
	}
	b.click(".refresh")
	close(release)
	b.waitText(".said", "New token, valid for 1 h.|New token, valid for 60 min.")
	b.waitText(".fingerprint", "0000aaaa")
	if n := api.count("POST credentials/catalog/refresh"); n != 1 {
		t.Errorf("%d calls", n)
	}
	b.wantFocus(".refresh")

	api.refresh = func(*pageCredential) error { return fmt.Errorf("the token endpoint refused the request") }
	b.click(".refresh")
	b.waitText(".said", "Could not refresh it: the token endpoint refused the request")
}

func testPagePurge(t *testing.T, b *browser) {
	api := newPageAPI(t, healthy("catalog"), rateLimited("tricky"))
	b.open(api)
	purge := `li[data-name=catalog] .purge`
	const count = "POST credentials/catalog/purge"

	b.click(purge)
	b.waitText("#ask", "The next request fetches a new token; requests wait for it.")
	b.wantFocus("#ask-no")
	b.click("#ask-no")
	b.wait("closed", `!document.querySelector("#ask").open`)
	b.wantFocus(purge)

	b.click(purge)
	b.wait("open", `document.querySelector("#ask").open`)
	b.keys(keyEscape)
	b.wait("closed", `!document.querySelector("#ask").open`)
	b.wantFocus(purge)
	if n := api.count(count); n != 0 {
		t.Fatalf("%d calls without a confirmation", n)
	}

	b.click(purge)
	b.click("#ask-yes")
	b.waitText("li[data-name=catalog] .said", "Purged.")
	b.waitText("li[data-name=catalog] .life", "No token")
	b.wantFocus(purge)
	if n := api.count(count); n != 1 {
		t.Errorf("%d calls", n)
	}

	b.click(`li[data-name=tricky] .purge`) // a token that serves, and no endpoint to give another
	b.waitText("#ask", "requests fail, although the present token would still work")
	b.click("#ask-no")
}

func testPagePurgeAll(t *testing.T, b *browser) {
	api := newPageAPI(t, manyCredentials(12)...)
	b.open(api)
	b.waitText("#summary", "All 12")
	b.click("#purge-all")
	b.waitText("#ask", "All 12 credentials lose their token.")
	b.keys(keyEscape)
	b.wantFocus("#purge-all")
	b.click("#purge-all")
	b.click("#ask-yes")
	b.waitText("#note", "Purged 12 tokens.")
	b.wantFocus("#purge-all")
	if n := api.count("POST purge"); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func testPageKeyboard(t *testing.T, b *browser) {
	api := newPageAPI(t, manyCredentials(4)...)
	b.open(api)
	b.waitText("#summary", "All 4")
	tabTo := func(selector string) {
		t.Helper()
		for range 20 {
			b.keys(keyTab)
			if b.eval(`document.activeElement.matches(` + jsString(selector) + `)`).(bool) {
				if b.eval(`(() => { const at = s => getComputedStyle(document.activeElement, s); return at("").outlineStyle === "none" && at("::after").outlineStyle === "none"; })()`).(bool) {
					t.Errorf("the focus on %s is not seen", selector)
				}
				return
			}
		}
		t.Fatalf("no way to %s with Tab", selector)
	}
	tabTo("#filter")
	tabTo("#purge-all")
	tabTo("li:first-child h2 button")
	b.keys(keyEnter)
	b.wait("open", `document.querySelector("li:first-child h2 button").ariaExpanded === "true"`)
	tabTo("li:first-child .refresh")
	b.keys(keyEnter)
	b.waitText("li:first-child .said", "New token")
	tabTo("li:first-child .purge")
	b.keys(" ")
	b.wantFocus("#ask-no")
	b.keys(keyTab)
	b.wantFocus("#ask-yes")
	b.keys(keyEnter)
	b.waitText("li:first-child .said", "Purged.")
	b.wantFocus("li:first-child .purge")
	tabTo("li:nth-child(2) h2 button")
	tabTo("footer summary")
	if got := api.count("POST credentials/tenant-000/refresh") + api.count("POST credentials/tenant-000/purge"); got != 2 {
		t.Errorf("%d calls", got)
	}
}

func testPageKeepsCurrent(t *testing.T, b *browser) {
	api := newPageAPI(t, manyCredentials(12)...)
	b.open(api)
	b.waitText("#summary", "All 12 credentials are fine")
	row := `li[data-name="tenant-005"]`
	b.click(row + " h2 button")
	b.run(`window.kept = document.querySelector('` + row + `'); window.said = 0;
		new MutationObserver(() => said++).observe(document.querySelector("#summary"), {childList: true, characterData: true, subtree: true})`)
	b.run(`document.querySelector('` + row + ` .refresh').focus(); lastInput = -QUIET`)

	b.waitRequests(api, 1) // by itself, and without a word to a screen reader while nothing changes
	if said := b.eval("said"); said != 0.0 {
		t.Errorf("the summary was said %v times while nothing changed", said)
	}
	api.set(wrongSecret("tenant-005"))
	api.set(endpointDown("tenant-000"))
	api.remove("tenant-011")
	b.pollNow()
	b.waitText("#summary", "9 of 11 credentials are fine; tenant-000 and tenant-005 fail")
	b.waitText("#list > li:nth-child(2)", "tenant-005")
	b.wait("same row", `document.querySelector('`+row+`') === kept`)
	b.wantFocus(row + " .refresh")
	if b.attribute(row+" h2 button", "aria-expanded") != "true" || b.visible(`li[data-name="tenant-001"] .body`) {
		t.Error("what was open or closed has changed")
	}
	if said := b.eval("said"); said != 1.0 {
		t.Errorf("the summary was said %v times for one change", said)
	}

	// Nothing moves under the hand.
	b.run(`addEventListener("pointermove", () => {}); lastInput = performance.now() + 1e6`)
	api.set(wrongSecret("tenant-010"))
	b.pollNow()
	b.waitText("#summary", "tenant-000, tenant-005 and tenant-010 fail")
	if names := b.strings(`[...document.querySelectorAll("#list > li .name")].map(n => n.textContent)`); names[2] == "tenant-010" {
		t.Error("a row moved while somebody was pointing")
	}
	b.run(`lastInput = -QUIET`)
	b.pollNow()
	b.waitText("#list > li:nth-child(3)", "tenant-010")
}

// The times are the server's, so a wrong clock of this computer changes nothing.
func testPageClock(t *testing.T, b *browser) {
	api := newPageAPI(t)
	api.ahead = 10 * time.Hour
	c := healthy("catalog")
	for _, at := range []*time.Time{c.Issued, c.Refresh, c.Expires} {
		*at = at.Add(api.ahead)
	}
	api.set(c)
	b.open(api)
	b.waitText("#list", "Fresh · refresh in 30 min")

	// And time passes without answers too: what was fresh does not stay so.
	api.setMode("down")
	b.pollNow()
	b.waitText("#banner", "Not current")
	b.run(`skew += 31 * 60000`)
	b.waitText("#list", "Stale · still valid for")
	b.run(`skew += 12 * 60000`)
	b.waitText("#list", "Expired")
}

func testPageHidden(t *testing.T, b *browser) {
	api := newPageAPI(t, healthy("catalog"))
	b.open(api)
	b.waitText("#summary", "catalog is fine")
	b.run(`Object.defineProperty(document, "hidden", {value: true, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`)
	b.wait("no timer", `!polling`)
	before := api.count("GET credentials")
	b.run(`window.since = performance.now()`)
	b.wait("more than a period", `performance.now() - since > EVERY + 200`)
	if n := api.count("GET credentials"); n != before {
		t.Errorf("%d requests while hidden", n-before)
	}
	api.set(wrongSecret("catalog"))
	b.run(`delete document.hidden; document.dispatchEvent(new Event("visibilitychange"))`)
	b.waitText("#summary", "catalog fails")
}

func testPageAPIDown(t *testing.T, b *browser) {
	api := newPageAPI(t, healthy("catalog"))
	b.open(api)
	b.waitText("#summary", "catalog is fine")
	api.setMode("down")
	b.pollNow()
	b.waitText("#banner", "Not current: the admin API cannot be reached.")
	b.waitText("#banner", `The page shows the state of \d+ s ago`)
	b.waitText("#banner", `Next try in \d s`)
	b.waitText("#live", "Not current")
	b.waitText("#summary", "catalog is fine") // what was known stays
	if title := b.title(); title != "Not current: catalog is fine · token-proxy" {
		t.Errorf("title: %q", title)
	}
	b.pollNow()
	b.wait("back off", `failures > 1 && nextTry - Date.now() > EVERY`)
	api.setMode("html")
	b.click("#again")
	b.waitText("#banner", "not JSON")
	api.setMode("")
	b.click("#again")
	b.wait("recovered", `document.querySelector("#banner").hidden && document.title === "catalog is fine · token-proxy"`)

	api.setMode("down") // from the start
	b.run(`shownAt = 0`)
	b.pollNow()
	b.waitText("#summary", "The state of the credentials is unknown")
}

func testPageAPIRefuses(t *testing.T, b *browser) {
	api := newPageAPI(t, healthy("catalog"))
	b.open(api)
	b.waitText("#summary", "catalog is fine")
	api.setMode("forbidden")
	b.pollNow()
	b.waitText("#banner", "denies this page \\(403\\). Open it on a site of its own:")
	if hint := b.eval(`document.querySelector("#hint").innerText`); hint != strings.TrimSpace(caddytest.PageSite(t, reference)) {
		t.Errorf("it shows another site than the reference: %s", hint)
	}
	b.click(".refresh")
	b.waitText(".said", "Could not refresh it: Caddy's admin API denies this page")
}

// What comes from outside is text, whatever it looks like.
func testPageHostile(t *testing.T, b *browser) {
	const markup = `<img src=x onerror="document.title='owned'">`
	names := []string{markup, "\u202Egolatac", strings.Repeat("long-", 40), `a/b?c#d&e=%2F`, `__proto__`, `'"]}`}
	api := newPageAPI(t)
	for _, name := range names {
		c := wrongSecret(name)
		c.Summary, c.Advice, c.Provider, c.Endpoint, c.Fingerprint, c.State = markup, markup, markup, markup, markup, markup
		c.LastError.Reason, c.LastError.Code, c.LastError.Kind = markup, "__proto__", "constructor"
		c.Recent = append(c.Recent, pageFetch{At: time.Now(), Outcome: "toString", Reason: markup, Code: markup, Fingerprint: markup})
		api.set(c)
	}
	b.resize(360, 800)
	defer b.resize(1280, 900)
	b.open(api)
	b.waitText("#summary", "All 6 credentials fail")
	for i := range names {
		b.click(fmt.Sprintf("#list > li:nth-child(%d) h2 button", i+1))
	}
	if n := b.eval(`document.images.length`); n != 0.0 {
		t.Errorf("%v images", n)
	}
	shown := b.strings(`[...document.querySelectorAll("#list .name")].map(n => n.textContent)`)
	slices.Sort(names)
	slices.Sort(shown)
	if !slices.Equal(shown, names) {
		t.Errorf("names: %q", shown)
	}
	if strings.Contains(b.title(), "owned") {
		t.Error("markup was obeyed")
	}
	b.wantNoSideways()
	for i, name := range names { // each is found again by its address
		b.click(fmt.Sprintf("#list > li:nth-child(%d) .refresh", i+1))
		b.waitText(fmt.Sprintf("#list > li:nth-child(%d) .said", i+1), "New token")
		if n := api.count("POST credentials/" + name + "/refresh"); i == 0 && n == 0 && len(api.calls) == 0 {
			t.Errorf("no call for %q", name)
		}
	}
	for _, name := range names {
		if n := api.count("POST credentials/" + name + "/refresh"); n != 1 {
			t.Errorf("%d calls for %q", n, name)
		}
	}
}

func testPageContrast(t *testing.T, b *browser) {
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		b.open(newPageAPI(t, everyCondition()...))
		b.waitText("#summary", "credentials")
		b.run(`document.querySelector("footer details").open = true;
			document.querySelectorAll("#list [aria-expanded=false]").forEach(b => b.click());
			document.querySelector("#banner").hidden = false; document.querySelector("#trouble").innerHTML = "<strong>Not current</strong> x";
			document.querySelectorAll(".said")[0].textContent = "said"; document.querySelectorAll(".said")[1].textContent = "said"; document.querySelectorAll(".said")[1].classList.add("bad");`)
		for _, low := range b.strings(contrastScript) {
			t.Errorf("%s: %s", scheme, low)
		}
		b.run(`document.querySelector("#ask-title").textContent = document.querySelector("#ask-text p").textContent = "Sure?"; document.querySelector("#ask").showModal()`)
		for _, low := range b.strings(contrastScript) {
			t.Errorf("%s, dialog: %s", scheme, low)
		}
	}
	b.scheme("light")
}

// contrastScript lists text below 4.5, and marks and bars below 3, against what is behind them (WCAG 2.2, 1.4.3 and 1.4.11).
const contrastScript = `(() => {
	const parse = text => { const m = text.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
	const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
	const behind = node => {
		const layers = [];
		for (; node; node = node.parentElement) {
			const colour = parse(getComputedStyle(node).backgroundColor);
			layers.push(colour);
			if (colour[3] === 1) break;
		}
		return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
	};
	const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
	const low = [];
	const check = (node, colour, back, least) => {
		const got = ratio(over(parse(colour), back), back);
		if (!(got >= least)) low.push(got.toFixed(2) + " " + node.tagName + "." + (node.className.baseVal ?? node.className) + " " + node.textContent.trim().slice(0, 40));
	};
	let seen = 0;
	for (const node of document.querySelectorAll("body *")) {
		if (!node.checkVisibility() || node.closest("template, script, noscript")) continue;
		if (document.querySelector("#ask").open && !node.closest("#ask")) continue;
		if ([...node.childNodes].some(n => n.nodeType === 3 && n.data.trim())) { seen++; check(node, getComputedStyle(node).color, behind(node), 4.5); }
		if (node.matches("svg")) check(node, getComputedStyle(node).color, behind(node), 3);
		if (node.matches("input")) check(node, getComputedStyle(node, "::placeholder").color, behind(node), 4.5);
		if (node.matches("input, button.refresh")) check(node, getComputedStyle(node).borderTopColor, behind(node.parentElement), 3);
		if (node.matches(".bar:is([data-state=fresh], [data-state=stale], [data-state=places], [data-state=full]) i")) check(node, getComputedStyle(node, "::after").backgroundColor, behind(node), 3);
	}
	return seen > 3 ? low : ["only " + seen + " texts were seen"];
})()`

// All that can be operated has a name that says what it does, and to what.
func testPageNames(t *testing.T, b *browser) {
	b.open(newPageAPI(t, everyCondition()...))
	b.waitText("#summary", "credentials")
	b.run(`document.querySelectorAll("#list [aria-expanded=false]").forEach(b => b.click())`)
	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value any }
		}
	}
	b.cdp("Accessibility.getFullAXTree", nil, &tree)
	seen := map[string][]string{}
	for _, n := range tree.Nodes {
		if role, name := fmt.Sprint(n.Role.Value), cmp.Or(fmt.Sprint(n.Name.Value), ""); !n.Ignored {
			seen[role] = append(seen[role], name)
		}
	}
	for _, role := range []string{"button", "searchbox", "meter", "list", "image", "heading", "main"} {
		if len(seen[role]) == 0 {
			t.Errorf("no %s: %v", role, seen)
		}
		for _, name := range seen[role] {
			if name == "" || name == "<nil>" {
				if role != "list" { // an unnamed list is no fault
					t.Errorf("a %s has no name", role)
				}
			}
		}
	}
	for role, names := range map[string][]string{
		"button":    {"Refresh the token of billing", "Purge the token of billing", "billing", "Purge all…"},
		"meter":     {"Remaining lifetime of billing"},
		"searchbox": {"Filter"},
		"heading":   {"Recent fetches", "Last error"},
	} {
		for _, name := range names {
			if !slices.Contains(seen[role], name) {
				t.Errorf("no %s %q in %q", role, name, seen[role])
			}
		}
	}
	if len(seen["banner"]) != 1 || len(seen["contentinfo"]) != 1 {
		t.Errorf("landmarks: %d banner, %d contentinfo", len(seen["banner"]), len(seen["contentinfo"]))
	}
	if dup := b.strings(`[...document.querySelectorAll("[id]")].map(n => n.id).filter((id, i, all) => all.indexOf(id) !== i)`); len(dup) > 0 {
		t.Errorf("ids used twice: %q", dup)
	}
}

func testPageNarrow(t *testing.T, b *browser) {
	b.resize(360, 740)
	defer b.resize(1280, 900)
	api := newPageAPI(t, everyCondition()...)
	b.open(api)
	b.waitText("#summary", "credentials")
	b.wantNoSideways()
	b.run(`document.querySelectorAll("#list [aria-expanded=false]").forEach(b => b.click()); document.querySelector("footer details").open = true`)
	b.wantNoSideways()
	api.setMode("forbidden")
	b.pollNow()
	b.waitText("#banner", "403")
	b.wantNoSideways()
	b.open(newPageAPI(t))
	b.waitText("#empty", "Caddyfile")
	b.wantNoSideways()
}

func testPageScreenshots(t *testing.T, b *browser) {
	folder := os.Getenv(screenshotsVariable)
	if folder == "" {
		t.Skip("set " + screenshotsVariable + " to a folder to get pictures")
	}
	one := healthy("catalog")
	twelve := append(everyCondition(), manyCredentials(4)...)
	many := manyCredentials(200)
	many[17], many[56] = endpointDown("tenant-017"), rateLimited("tenant-056")
	scenes := map[string][]pageCredential{"0": nil, "1": {one}, "12": twelve, "200": many, "tenants": {platform("shops")}}
	for _, f := range pageFailures {
		scenes["failure-"+f.name] = []pageCredential{f.make("billing"), healthy("catalog")}
	}
	for name, cs := range scenes {
		for _, width := range []int{1280, 360} {
			for _, scheme := range []string{"light", "dark"} {
				b.resize(width, 900)
				b.scheme(scheme)
				b.open(newPageAPI(t, cs...))
				b.wait("rows", fmt.Sprintf(`shownAt && document.querySelectorAll("#list > li").length === %d`, len(cs)))
				if name == "12" {
					b.click("#list > li h2 button")
				}
				b.wait("the end of transitions", `document.getAnimations().length === 0`)
				b.screenshot(filepath.Join(folder, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)))
			}
		}
	}
	b.resize(1280, 900)
	for _, mode := range []string{"down", "forbidden"} {
		api := newPageAPI(t, twelve...)
		b.open(api)
		b.waitText("#summary", "credentials")
		api.setMode(mode)
		b.pollNow()
		b.wait("banner", `!document.querySelector("#banner").hidden`)
		b.screenshot(filepath.Join(folder, mode+".png"))
	}
	b.open(newPageAPI(t, one))
	b.click(".purge")
	b.screenshot(filepath.Join(folder, "dialog.png"))
	b.scheme("light")
}

func (b *browser) open(api *pageAPI) {
	b.t.Helper()
	b.origin = api.URL
	b.navigate(api.URL + "/token_proxy/")
	b.wait("an answer", `shownAt > 0`)
}

func (b *browser) waitRequests(api *pageAPI, n int) {
	b.t.Helper()
	before := api.count("GET credentials")
	for deadline := time.Now().Add(patience); api.count("GET credentials") < before+n; time.Sleep(pageGlance) {
		if time.Now().After(deadline) {
			b.t.Fatal("the page does not ask again")
		}
	}
}

// pollNow makes the page ask at once, as it does when it is looked at again.
func (b *browser) pollNow() {
	b.t.Helper()
	b.run(`document.dispatchEvent(new Event("visibilitychange"))`)
}

func (b *browser) title() string {
	b.t.Helper()
	b.run(`tick()`)
	return b.eval("document.title").(string)
}
