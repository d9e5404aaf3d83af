//go:build !windows

package option

import (
	"io/fs"

	"go.uber.org/zap"
)

// readers returns what to do if the mode lets users other than the owner read the file, and the mode for the log.
func readers(_ string, mode fs.FileMode) (advice string, found zap.Field) {
	if mode.Perm()&0o077 == 0 {
		return "", zap.Skip()
	}
	return "set its mode to 600", zap.Stringer("mode", mode.Perm())
}
