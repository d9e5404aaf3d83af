package redistest

// Pause skips the test, because Windows has no signal that stops a process.
func (s *Server) Pause() { s.t.Skip("SKIPPED: this system cannot pause a process") }

// Resume lets a paused process go on.
func (s *Server) Resume() {}
