//go:build !windows

package option

import (
	"io/fs"

	"go.uber.org/zap"
)

// others returns what to do if the mode lets users other than the owner change the file or, if it is private, read it, and the
// mode for the log. Otherwise, the advice is empty.
func others(_ string, mode fs.FileMode, private bool) (advice string, found zap.Field) {
	switch {
	case private && mode.Perm()&0o077 != 0:
		return "set its mode to 600", zap.Stringer("mode", mode.Perm())
	case mode.Perm()&0o022 != 0:
		return "remove their permission to write (chmod go-w)", zap.Stringer("mode", mode.Perm())
	default:
		return "", zap.Skip()
	}
}
