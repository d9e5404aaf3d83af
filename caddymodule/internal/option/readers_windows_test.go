package option

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/windows"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// wellKnown returns the SID of a group.
func wellKnown(t *testing.T, kind windows.WELL_KNOWN_SID_TYPE) *windows.SID {
	t.Helper()
	sid, err := windows.CreateWellKnownSid(kind)
	if err != nil {
		t.Fatal(err)
	}
	return sid
}

// access returns an entry of a list.
func access(mode windows.ACCESS_MODE, mask windows.ACCESS_MASK, sid *windows.SID) windows.EXPLICIT_ACCESS {
	return windows.EXPLICIT_ACCESS{AccessPermissions: mask, AccessMode: mode,
		Trustee: windows.TRUSTEE{TrusteeForm: windows.TRUSTEE_IS_SID, TrusteeValue: windows.TrusteeValueFromSID(sid)}}
}

// list returns an access control list with these entries.
func list(t *testing.T, entries ...windows.EXPLICIT_ACCESS) *windows.ACL {
	t.Helper()
	acl, err := windows.ACLFromEntries(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	return acl
}

func TestMayRead(t *testing.T) {
	everyone, users := wellKnown(t, windows.WinWorldSid), wellKnown(t, windows.WinBuiltinUsersSid)
	system := access(windows.GRANT_ACCESS, windows.GENERIC_ALL, wellKnown(t, windows.WinLocalSystemSid))
	for _, test := range []struct {
		name string
		acl  *windows.ACL
		want bool
	}{
		{"the system alone", list(t, system), false},
		{"another group", list(t, system, access(windows.GRANT_ACCESS, windows.GENERIC_READ, users)), false},
		{"everyone writes", list(t, system, access(windows.GRANT_ACCESS, windows.FILE_WRITE_DATA, everyone)), false},
		{"everyone is denied", list(t, access(windows.DENY_ACCESS, windows.GENERIC_READ, everyone), system), false},
		{"everyone reads", list(t, system, access(windows.GRANT_ACCESS, windows.GENERIC_READ, everyone)), true},
		{"everyone reads the data", list(t, system, access(windows.GRANT_ACCESS, windows.FILE_READ_DATA, everyone)), true},
		{"everyone has all access", list(t, access(windows.GRANT_ACCESS, windows.GENERIC_ALL, everyone)), true},
	} {
		if got := mayRead(test.acl, everyone); got != test.want {
			t.Errorf("%s: got %t", test.name, got)
		}
	}
}

// TestWarnOfReadersOnWindows judges the access control list, not the mode that Go makes up.
func TestWarnOfReadersOnWindows(t *testing.T) {
	f, err := os.CreateTemp("", "key") // Wine cannot remove t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	acl := list(t, access(windows.GRANT_ACCESS, windows.GENERIC_ALL, wellKnown(t, windows.WinBuiltinAdministratorsSid)),
		access(windows.GRANT_ACCESS, windows.GENERIC_READ, wellKnown(t, windows.WinWorldSid)))
	if err := windows.SetNamedSecurityInfo(f.Name(), windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION, nil, nil, acl, nil); err != nil {
		t.Fatal(err)
	}
	core, logged := observer.New(zap.WarnLevel)
	WarnOfReaders(zap.New(core), "signing_key", FromFile(f.Name()))
	if logged.Len() != 1 {
		t.Fatalf("it logs %d warnings", logged.Len())
	}
	entry := logged.All()[0]
	groups, _ := entry.ContextMap()["groups"].(string)
	if !strings.Contains(entry.Message, "icacls") || !strings.Contains(groups, "Everyone") {
		t.Errorf("it logs %q, %v", entry.Message, entry.ContextMap())
	}
	for _, r := range []Reader{FromFile(f.Name() + "-missing"), {env: "KEY"}, {literal: token.NewSecret("key")}} {
		WarnOfReaders(zap.New(core), "signing_key", r)
	}
	if logged.Len() != 1 {
		t.Errorf("it logs %d warnings", logged.Len())
	}
}
