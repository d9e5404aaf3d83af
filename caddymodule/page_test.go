package caddymodule

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// screenshotsVariable names a folder for pictures of the page. They are for people: nothing compares them.
const screenshotsVariable = "TOKEN_PROXY_SCREENSHOTS"

// The page is driven as a person drives it: in a real browser, through WebDriver, against a made-up admin API.
func TestPage(t *testing.T) {
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
	if left, point := b.eval(`getComputedStyle(document.querySelector(".life .bar")).getPropertyValue("--left")`), b.eval(`getComputedStyle(document.querySelector(".life .bar")).getPropertyValue("--point")`); left != "0.700" && left != "0.699" || point != "0.200" {
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
	if ms := b.eval(`(() => { const from = performance.now(); for (let i = 0; i < 5; i++) tick(); return (performance.now() - from) / 5; })()`).(float64); ms > 100 {
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
		b.click(first + " h2 button")
		if !b.visible(first+" .what") || !b.visible(first+" .todo") {
			t.Errorf("%s: what to do is not seen in a closed row", f.name)
		}
	}
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
	b.waitText("#ask", "requests fail that the present token would still serve")
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
	b.waitText("#banner", `What is shown is \d+ s old`)
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
	b.waitText("#banner", "refuses this page \\(403\\). Open it on a site of its own:")
	if hint := b.eval(`document.querySelector("#hint").innerText`); hint != strings.TrimSpace(pageSite(t)) {
		t.Errorf("it shows another site than the reference: %s", hint)
	}
	b.click(".refresh")
	b.waitText(".said", "Could not refresh it: Caddy's admin API refuses this page")
}

// pageSite is the reference's site for the page.
func pageSite(t *testing.T) string {
	t.Helper()
	block := regexp.MustCompile("(?s)```caddyfile\n(http://localhost:2020 {.*?)```").FindStringSubmatch(readExample(t, reference))
	if block == nil {
		t.Fatal("the reference has no site for the page")
	}
	return block[1]
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
		if (node.matches(".bar[data-state=fresh] i, .bar[data-state=stale] i")) check(node, getComputedStyle(node, "::after").backgroundColor, behind(node), 3);
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
	scenes := map[string][]pageCredential{"0": nil, "1": {one}, "12": twelve, "200": many}
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

// pageCredential is a credential as the admin API shows it.
type pageCredential struct {
	Name        string         `json:"name"`
	Provider    string         `json:"provider"`
	Endpoint    string         `json:"endpoint"`
	State       string         `json:"state"`
	Health      string         `json:"health"`
	Summary     string         `json:"summary"`
	Advice      string         `json:"advice"`
	Fetching    bool           `json:"fetching"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	Issued      *time.Time     `json:"issued,omitempty"`
	Refresh     *time.Time     `json:"refresh,omitempty"`
	Expires     *time.Time     `json:"expires,omitempty"`
	NextTry     *time.Time     `json:"next_try,omitempty"`
	LastSuccess *time.Time     `json:"last_success,omitempty"`
	LastError   *pageError     `json:"last_error,omitempty"`
	Counters    map[string]any `json:"counters"`
	Recent      []pageFetch    `json:"recent"`
}

type pageError struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Status int       `json:"status,omitempty"`
	Code   string    `json:"code,omitempty"`
	Reason string    `json:"reason"`
}

type pageFetch struct {
	At          time.Time `json:"at"`
	Outcome     string    `json:"outcome"`
	Duration    float64   `json:"duration"`
	Lifetime    float64   `json:"lifetime,omitempty"`
	Code        string    `json:"code,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
}

func inTime(d time.Duration) *time.Time { t := time.Now().Add(d); return &t }

// healthy is a credential whose token has 42 of 60 minutes left and is due for refresh 12 minutes before its end.
func healthy(name string) pageCredential {
	c := pageCredential{
		Name: name, Provider: "optoro", Endpoint: "auth.example.com", State: "fresh", Health: "ok", Summary: "The token is fresh.",
		Fingerprint: "929998b5", Issued: inTime(-18*time.Minute + 900*time.Millisecond), Refresh: inTime(30*time.Minute + 900*time.Millisecond),
		Expires: inTime(42*time.Minute + 900*time.Millisecond), LastSuccess: inTime(-18 * time.Minute),
		Counters: map[string]any{
			"requests": map[string]int{"fresh": 18234, "stale": 3, "waited": 2, "failed": 0},
			"calls":    map[string]int{"obtained": 16, "unavailable": 0, "refused": 0, "unreadable": 0},
			"refusals": map[string]int{"destination": 0, "client": 0}, "unauthorized": 0, "invalidations": 0, "replays": 0,
		},
	}
	for i := range 16 {
		c.Recent = append(c.Recent, pageFetch{At: time.Now().Add(-18*time.Minute - time.Duration(15-i)*48*time.Minute), Outcome: "obtained",
			Duration: 0.112 + 0.013*float64(i%5), Lifetime: 3600, Fingerprint: fmt.Sprintf("%08x", 0x929998b5-uint32(15-i)*7919)})
	}
	return c
}

// failed adds a failure that began 3 minutes ago and goes on.
func (c pageCredential) failed(outcome string, status int, code, reason string, took float64) pageCredential {
	for _, ago := range []time.Duration{180, 178, 171, 150, 96, 31} {
		c.Recent = append(c.Recent, pageFetch{At: time.Now().Add(-ago * time.Second), Outcome: outcome, Duration: took, Code: code, Reason: reason})
	}
	if outcome != "rejected" && outcome != "destination" {
		c.LastError = &pageError{At: time.Now().Add(-31 * time.Second), Kind: outcome, Status: status, Code: code, Reason: reason}
	}
	return c
}

func (c pageCredential) without() pageCredential {
	c.State, c.Fingerprint, c.Issued, c.Refresh, c.Expires = "none", "", nil, nil, nil
	return c
}

func endpointDown(name string) pageCredential {
	c := healthy(name).failed("unavailable", 0, "", "the token endpoint cannot be reached: connection refused", 0.003)
	c.State, c.Health, c.NextTry = "expired", "failing", inTime(42*time.Second)
	c.Issued, c.Refresh, c.Expires = inTime(-62*time.Minute), inTime(-14*time.Minute), inTime(-2*time.Minute)
	c.Summary = "The token endpoint auth.example.com cannot be reached, and the last token has expired: requests get 503."
	c.Advice = "Check that auth.example.com is up and that this host can connect to it; calls resume by themselves."
	return c
}

func rateLimited(name string) pageCredential {
	c := healthy(name).failed("unavailable", 429, "", "the token endpoint asks to try again later", 0.084)
	c.State, c.Health, c.NextTry = "stale", "degraded", inTime(58*time.Second)
	c.Refresh, c.Expires = inTime(-3*time.Minute), inTime(9*time.Minute)
	c.Summary = "The token endpoint limits the rate of calls (429); requests are served with the present token, which is valid for 9 more minutes."
	c.Advice = "Wait; if it stays so, look for other processes that use the same client id."
	return c
}

func wrongSecret(name string) pageCredential {
	c := healthy(name).without().failed("refused", 401, "invalid_client", "the token endpoint refused the request", 0.131)
	c.Health, c.NextTry = "failing", inTime(4*time.Minute)
	c.Recent = c.Recent[16:]
	c.LastSuccess = nil
	c.Summary = "The token endpoint does not accept this client id and secret (invalid_client): requests get 502."
	c.Advice = "Correct client_id or client_secret; a changed secret file is noticed by itself."
	return c
}

func revoked(name string) pageCredential {
	c := healthy(name).failed("rejected", 0, "", "the API answered 401 to a token that should be valid", 0)
	c.State, c.Health = "rejected", "degraded"
	c.Counters["unauthorized"], c.Counters["invalidations"], c.Counters["replays"] = 14, 6, 12
	c.Summary = "The API answers 401 to tokens that should be valid; each is replaced and the request sent again."
	c.Advice = "Ask the API's operator whether tokens of this client are revoked, and check scope and audience."
	return c
}

func destinationRefused(name string) pageCredential {
	c := healthy(name).failed("destination", 0, "", "api.other.example is not among api_hosts", 0)
	c.Health = "degraded"
	c.Counters["refusals"] = map[string]int{"destination": 27, "client": 0}
	c.Summary = "27 requests were to go to api.other.example, which is not among api_hosts: they got 502, and the token stayed here."
	c.Advice = "Add the host to api_hosts if the token may go there; else correct the upstream of the site."
	return c
}

func slowEndpoint(name string) pageCredential {
	c := healthy(name).failed("unavailable", 0, "", "the token endpoint did not answer in time", 10.0)
	c.Health, c.State, c.Fetching = "degraded", "stale", true
	c.Refresh, c.Expires = inTime(-3*time.Minute), inTime(4*time.Minute)
	c.Summary = "The token endpoint takes longer than fetch_timeout (10 s); requests are served with the present token for 4 more minutes."
	c.Advice = "Ask the endpoint's operator; raise fetch_timeout if such times are normal."
	return c
}

var pageFailures = []struct {
	name string
	make func(string) pageCredential
}{
	{"endpoint-down", endpointDown}, {"rate-limited", rateLimited}, {"wrong-secret", wrongSecret},
	{"revoked-token", revoked}, {"refused-destination", destinationRefused}, {"slow-endpoint", slowEndpoint},
}

func everyCondition() []pageCredential {
	idle := healthy("nightly").without()
	idle.Health, idle.Recent, idle.LastSuccess, idle.Summary = "idle", nil, nil, "There is no token: no request has asked for one yet."
	return []pageCredential{
		wrongSecret("billing"), endpointDown("warehouse"), rateLimited("catalog"), revoked("storefront"),
		destinationRefused("partners"), slowEndpoint("search"), idle, healthy("reports"),
	}
}

func manyCredentials(n int) []pageCredential {
	cs := make([]pageCredential, n)
	for i := range cs {
		cs[i] = healthy(fmt.Sprintf("tenant-%03d", i))
		left := time.Duration(13+i*7%46) * time.Minute
		cs[i].Issued, cs[i].Refresh, cs[i].Expires = inTime(left-time.Hour), inTime(left-12*time.Minute), inTime(left)
		if i%9 == 8 {
			cs[i] = cs[i].without()
			cs[i].Health, cs[i].Summary = "idle", "The token was not used and has expired."
		}
	}
	return cs
}

// pageAPI is an admin API with credentials that a test makes up, which counts its calls.
type pageAPI struct {
	*httptest.Server
	refresh func(*pageCredential) error
	ahead   time.Duration // of its clock

	mu          sync.Mutex
	credentials map[string]pageCredential
	calls       map[string]int
	mode        string // "" works; else "down", "html" or "forbidden"
}

func newPageAPI(t *testing.T, cs ...pageCredential) *pageAPI {
	a := &pageAPI{credentials: map[string]pageCredential{}, calls: map[string]int{}}
	for _, c := range cs {
		a.credentials[c.Name] = c
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /token_proxy/{$}", func(w http.ResponseWriter, r *http.Request) {
		if err := servePage(w, r); err != nil {
			t.Log(err) // the browser went away
		}
	})
	mux.HandleFunc("GET /token_proxy/credentials", a.works(func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		cs := make([]pageCredential, 0, len(a.credentials))
		for _, c := range a.credentials {
			cs = append(cs, c)
		}
		slices.SortFunc(cs, func(x, y pageCredential) int { return cmp.Compare(x.Name, y.Name) })
		writePageJSON(w, http.StatusOK, map[string]any{"now": time.Now().Add(a.ahead), "credentials": cs})
	}))
	mux.HandleFunc("POST /token_proxy/credentials/{name}/{verb}", a.works(func(w http.ResponseWriter, r *http.Request) {
		c := a.get(r.PathValue("name"))
		if r.PathValue("verb") == "purge" {
			c = c.without()
			c.Health = "idle"
		} else if a.refresh != nil {
			if err := a.refresh(&c); err != nil {
				writePageJSON(w, http.StatusBadGateway, map[string]string{"error": err.Error()})
				return
			}
		}
		a.set(c)
		writePageJSON(w, http.StatusOK, c)
	}))
	mux.HandleFunc("POST /token_proxy/purge", a.works(func(w http.ResponseWriter, _ *http.Request) {
		writePageJSON(w, http.StatusOK, map[string]int{"purged": len(a.credentials)})
	}))
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *pageAPI) works(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.calls[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/token_proxy/")]++
		mode := a.mode
		a.mu.Unlock()
		switch mode {
		case "down":
			panic(http.ErrAbortHandler) // closes the connection without an answer
		case "html":
			_, _ = w.Write([]byte("<h1>It works!</h1>"))
		case "forbidden":
			writePageJSON(w, http.StatusForbidden, map[string]string{"error": "client is not allowed to access from origin ''"})
		default:
			next(w, r)
		}
	}
}

func writePageJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (a *pageAPI) get(name string) pageCredential {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.credentials[name]
}

func (a *pageAPI) set(c pageCredential) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.credentials[c.Name] = c
}

func (a *pageAPI) remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.credentials, name)
}

func (a *pageAPI) setMode(mode string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mode = mode
}

func (a *pageAPI) count(call string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[call]
}

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
	driver := exec.Command(find("chromedriver"), "--port=0")
	output, err := driver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	ports, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if m := regexp.MustCompile(`started successfully on port (\d+)`).FindStringSubmatch(lines.Text()); m != nil {
				ports <- m[1]
			}
		}
		_ = driver.Wait()
	}()
	b := &browser{t: t, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}}
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		_ = driver.Process.Kill()
		<-ended
	})
	select {
	case port := <-ports:
		b.session = "http://127.0.0.1:" + port + "/session"
	case <-ended:
		t.Fatal("chromedriver ended before it listened")
	case <-time.After(20 * time.Second):
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
				"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--lang=en", "--host-resolver-rules=MAP *.example 127.0.0.1", "--user-data-dir=" + profile,
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

func (b *browser) open(api *pageAPI) {
	b.t.Helper()
	b.origin = api.URL
	b.navigate(api.URL + "/token_proxy/")
	b.wait("an answer", `shownAt > 0`)
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
const pageGlance = 10 * time.Millisecond

// wait polls until the expression is true.
func (b *browser) wait(what, expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); b.eval("Boolean("+expression+")") != true; time.Sleep(pageGlance) {
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

func (b *browser) waitRequests(api *pageAPI, n int) {
	b.t.Helper()
	before := api.count("GET credentials")
	for deadline := time.Now().Add(15 * time.Second); api.count("GET credentials") < before+n; time.Sleep(pageGlance) {
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
