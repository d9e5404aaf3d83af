package option

import "go.uber.org/zap"

// WarnOfSecret logs a warning if a secret is a literal, or if users other than the owner can change its file. The name is that of
// the option.
func WarnOfSecret(logger *zap.Logger, name string, r Reader, fields ...zap.Field) {
	warnOfLiteral(logger, name, r, fields)
	warnOfOthers(logger, name, r, false, fields)
}

// WarnOfKey logs a warning if a private key is a literal, or if users other than the owner can read or change its file. The name
// is that of the option.
func WarnOfKey(logger *zap.Logger, name string, r Reader, fields ...zap.Field) {
	warnOfLiteral(logger, name, r, fields)
	warnOfOthers(logger, name, r, true, fields)
}

// WarnOfFile logs a warning if users other than the owner can change the file that a value comes from. The name is that of the
// option. The value itself may be a literal.
func WarnOfFile(logger *zap.Logger, name string, r Reader, fields ...zap.Field) {
	warnOfOthers(logger, name, r, false, fields)
}

func warnOfLiteral(logger *zap.Logger, name string, r Reader, fields []zap.Field) {
	if r.IsLiteral() {
		logger.Warn(name+" is in the configuration itself, which the admin API and autosave.json show; use {file./path} or {env.NAME}", fields...)
	}
}

// warnOfOthers logs a warning if users other than the owner can change the file or, if it is private, read it. Most orchestrators
// mount secrets that all users of the container can read.
func warnOfOthers(logger *zap.Logger, name string, r Reader, private bool, fields []zap.Field) {
	if r.file == "" {
		return
	}
	file, err := files.Read(r.file)
	if err != nil {
		return // the option's own check reports it
	}
	path := shownName(r.file)
	advice, found := others(path, file.mode, private)
	if advice == "" {
		return
	}
	can := "change"
	if private {
		can = "read or change"
	}
	logger.Warn(name+": users other than the owner can "+can+" the file; "+advice, append(fields, zap.String("file", path), found)...)
}
