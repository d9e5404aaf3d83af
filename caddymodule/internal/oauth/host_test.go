package oauth

import "testing"

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost":        true,
		"127.0.0.1":        true,
		"127.255.255.254":  true,
		"::1":              true,
		"[::1]":            true,
		"::ffff:127.0.0.1": true,
		// With other spellings of localhost, net/http would use a proxy from the environment.
		"LocalHost":            false,
		"localhost.":           false,
		"":                     false,
		"127.1":                false, // resolvers differ in how they read it
		"2130706433":           false,
		"0.0.0.0":              false,
		"::":                   false,
		"128.0.0.1":            false,
		"::ffff:10.0.0.1":      false,
		"localhost.example":    false,
		"evil-localhost":       false,
		"localhost.localhost.": false,
		"127.0.0.1.nip.io":     false,
		"127.0.0.1:80":         false,
	} {
		if got := IsLoopback(host); got != want {
			t.Errorf("%q: got %v", host, got)
		}
	}
}

// mayBeLocal recognizes every spelling of this machine and of link-local addresses that some resolver understands.
func TestMayBeLocal(t *testing.T) {
	for _, host := range []string{
		"localhost", "LOCALHOST", "LocalHost", "localhost.", "localhost..", "LOCALHOST.", "a.localhost", "a.LocalHost.",
		"localhost.localdomain", "ip6-localhost", "ip6-loopback", "localhost6.localdomain6",
		"ｌocalhost", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "localhost。", "１２７.0.0.1", "127。0。0。1",
		"127.0.0.1", "127.0.0.1.", "127.255.255.254", "127.1", "127.0.1", "127.1.", "0x7f.1", "0X7F.1", "0x7f000001",
		"0177.1", "0177.0.0.01", "017700000001", "2130706433", "127.0x1", "127.65535",
		"0.0.0.0", "0", "1", "0x", "0x0", "0.1.2.3", "0.0", "00000",
		"::1", "[::1]", "::", "[::]", "0:0:0:0:0:0:0:1", "::1%lo", "[::1%25lo]",
		"::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:0.0.0.0", "::ffff:127.0.0.1%eth0", "::127.0.0.1", "::ffff:169.254.169.254",
		"169.254.169.254", "169.254.0.1", "0xa9fea9fe", "2852039166", "169.16689662", "169.254.43518",
		"fe80::1", "fe80::1%eth0", "[fe80::1%25eth0]", "FE80::A", "febf::1", "ff02::1", "ff01::1", "224.0.0.1",
		"", ".", "\u200d.example", "0].", "[0", "[[0]]", "[as.example].", // a resolver could make anything of them
	} {
		if !mayBeLocal(host) {
			t.Errorf("%q counts as remote", host)
		}
	}
	for _, host := range []string{
		"as.example", "AS.example.", "localhost.example", "evil-localhost", "localhosts", "idp.localdomain", "localdomain",
		"10.0.0.1", "192.168.1.1", "172.16.0.1", "128.0.0.1", "169.253.0.1", "168.254.0.1", "8.8.8.8", "1.2", "0x08080808",
		"4294967296", "127.0.0.0.1", "127.0.0.1.nip.io", "127.0.0.256", "09.1", "+127.1", "1_27.1", "0x7g.1", "127..1",
		"fec0::1", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1", "::10.0.0.1", "a_b.example", "bücher.example", "xn--bcher-kva.example",
	} {
		if mayBeLocal(host) {
			t.Errorf("%q counts as local", host)
		}
	}
}

// A host that IsLoopback accepts must be one that mayBeLocal accepts.
func FuzzHost(f *testing.F) {
	for _, host := range []string{"localhost", "127.0.0.1", "::1%lo", "0x7f.1", "a_b", "２.1", "[::]", "..", "0x", "::ffff:1.2.3.4%a", "0].", "[[0]]"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if IsLoopback(host) && !mayBeLocal(host) {
			t.Fatalf("%q is loopback but not local", host)
		}
		if normal, ok := normalHost(host); ok && mayBeLocal(host) != mayBeLocal(normal) {
			t.Fatalf("%q and %q give different results", host, normal)
		}
	})
}
