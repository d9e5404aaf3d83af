package option

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/windows"
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

func TestRights(t *testing.T) {
	everyone, users := wellKnown(t, windows.WinWorldSid), wellKnown(t, windows.WinBuiltinUsersSid)
	system := access(windows.GRANT_ACCESS, windows.GENERIC_ALL, wellKnown(t, windows.WinLocalSystemSid))
	for _, test := range []struct {
		name          string
		acl           *windows.ACL
		reads, writes bool
	}{
		{"the system alone", list(t, system), false, false},
		{"another group", list(t, system, access(windows.GRANT_ACCESS, windows.GENERIC_READ, users)), false, false},
		{"everyone writes", list(t, system, access(windows.GRANT_ACCESS, windows.FILE_WRITE_DATA, everyone)), false, true},
		{"everyone is denied", list(t, access(windows.DENY_ACCESS, windows.GENERIC_READ, everyone), system), false, false},
		{"everyone reads", list(t, system, access(windows.GRANT_ACCESS, windows.GENERIC_READ, everyone)), true, false},
		{"everyone reads the data", list(t, system, access(windows.GRANT_ACCESS, windows.FILE_READ_DATA, everyone)), true, false},
		{"everyone has all access", list(t, access(windows.GRANT_ACCESS, windows.GENERIC_ALL, everyone)), true, true},
	} {
		if reads, writes := has(test.acl, everyone, reading), has(test.acl, everyone, writing); reads != test.reads || writes != test.writes {
			t.Errorf("%s: reads %t, writes %t", test.name, reads, writes)
		}
	}
}

// TestWarnOfKeyOnWindows judges the access control list, not the mode that Go makes up.
func TestWarnOfKeyOnWindows(t *testing.T) {
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
	WarnOfKey(zap.New(core), "signing_key", FromFile(f.Name()))
	if logged.Len() != 1 {
		t.Fatalf("it logs %d warnings", logged.Len())
	}
	entry := logged.All()[0]
	groups, _ := entry.ContextMap()["groups"].(string)
	if !strings.Contains(entry.Message, "icacls") || !strings.Contains(groups, "Everyone") {
		t.Errorf("it logs %q, %v", entry.Message, entry.ContextMap())
	}
	for _, r := range []Reader{FromFile(f.Name() + "-missing"), {env: "KEY"}} {
		WarnOfKey(zap.New(core), "signing_key", r)
	}
	WarnOfSecret(zap.New(core), "client_secret", FromFile(f.Name())) // which everyone reads, and nobody changes
	if logged.Len() != 1 {
		t.Errorf("it logs %d warnings", logged.Len())
	}
}
