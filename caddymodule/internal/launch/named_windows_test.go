package launch

import "testing"

// TestNamedOnWindows compares names and paths as Windows does.
func TestNamedOnWindows(t *testing.T) {
	named, err := FindNamed([]byte(`{"client_id": "{env.Client_Id}", "client_secret": "{file.C:/ProgramData/token-proxy/client-secret}"}`))
	if err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[[2]string]bool{
		{"CLIENT_ID", "x"}: true,
		{"SECRET_FILE", `C:\ProgramData\token-proxy\client-secret`}:     true,
		{"SECRET_FILE", `c:/programdata/token-proxy/CLIENT-SECRET`}:     true,
		{"OPTIONS", `/file "C:\ProgramData\token-proxy\client-secret"`}: true,
		{"SECRET_FILE", `C:\ProgramData\token-proxy\client-secret.bak`}: false,
		{"SystemRoot", `C:\Windows`}:                                    false,
	} {
		if got := named.concerns(variable[0], variable[1]); got != want {
			t.Errorf("%s=%s: got %t", variable[0], variable[1], got)
		}
	}
}
