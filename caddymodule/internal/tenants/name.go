package tenants

// maxName is the length of the longest name of a tenant.
const maxName = 64

// ValidName reports whether a text is the name of a tenant. A name is safe in paths, URLs and logs.
func ValidName(name string) bool {
	if name == "" || len(name) > maxName || !alphanumeric(name[0]) || !alphanumeric(name[len(name)-1]) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !alphanumeric(c) && c != '-' && c != '_' && (c != '.' || name[i-1] == '.') {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
