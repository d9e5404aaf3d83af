package option

import (
	"io/fs"
	"strings"
	"unsafe"

	"go.uber.org/zap"
	"golang.org/x/sys/windows"
)

// others returns what to do if the access control list lets groups of many users change the file or, if it is private, read it,
// and these groups for the log. Go makes up the mode of a file on Windows, so the mode says nothing. A list that cannot be read
// causes no warning.
func others(path string, _ fs.FileMode, private bool) (advice string, found zap.Field) {
	rights := windows.ACCESS_MASK(writing)
	if private {
		rights |= reading
	}
	groups := groupsWith(path, rights)
	if len(groups) == 0 {
		return "", zap.Skip()
	}
	return "remove their permissions with icacls", zap.String("groups", strings.Join(groups, ", "))
}

// wideGroups are the groups that hold more users than those of the sidecar.
var wideGroups = []struct {
	kind windows.WELL_KNOWN_SID_TYPE
	name string
}{
	{windows.WinWorldSid, "Everyone"},
	{windows.WinAuthenticatedUserSid, "Authenticated Users"},
	{windows.WinBuiltinUsersSid, "Users"},
	{windows.WinBuiltinGuestsSid, "Guests"},
	{windows.WinInteractiveSid, "Interactive"},
}

// reading and writing are the rights that let a user read or change a file. File systems replace the generic rights with their
// own, but a list can still have them.
const (
	reading = windows.FILE_READ_DATA | windows.GENERIC_READ | windows.GENERIC_ALL
	writing = windows.FILE_WRITE_DATA | windows.FILE_APPEND_DATA | windows.WRITE_DAC | windows.WRITE_OWNER | windows.GENERIC_WRITE | windows.GENERIC_ALL
)

// groupsWith returns the wide groups that have one of the rights. It does not consider entries that deny access, which are rare.
func groupsWith(path string, rights windows.ACCESS_MASK) (groups []string) {
	descriptor, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return nil
	}
	list, _, err := descriptor.DACL()
	if err != nil {
		return nil
	}
	if list == nil { // all access for all users
		return []string{"Everyone"}
	}
	for _, group := range wideGroups {
		sid, err := windows.CreateWellKnownSid(group.kind)
		if err == nil && has(list, sid, rights) {
			groups = append(groups, group.name)
		}
	}
	return groups
}

// has reports whether the list gives a group one of the rights.
func has(list *windows.ACL, sid *windows.SID, rights windows.ACCESS_MASK) bool {
	for i := range uint32(list.AceCount) {
		var entry *windows.ACCESS_ALLOWED_ACE
		if windows.GetAce(list, i, &entry) != nil || entry.Header.AceType != windows.ACCESS_ALLOWED_ACE_TYPE ||
			entry.Header.AceFlags&windows.INHERIT_ONLY_ACE != 0 {
			continue
		}
		if entry.Mask&rights != 0 && (*windows.SID)(unsafe.Pointer(&entry.SidStart)).Equals(sid) {
			return true
		}
	}
	return false
}
