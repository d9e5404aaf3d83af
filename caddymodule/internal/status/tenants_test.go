package status

import "testing"

// What is wrong with the sharing concerns operators more than how many tenants are there, unless no place is left.
func TestTenantsDiagnosis(t *testing.T) {
	down := diagnoseSharing(Sharing{On: true, Store: Store{Name: "redis", LastError: "the server refuses connections"}})
	for _, tc := range []struct {
		tenants Tenants
		shared  Diagnosis
		health  Health
		cause   Cause
	}{
		{Tenants{Count: 0, Max: 2}, Diagnosis{}, healthIdle, ""},
		{Tenants{Count: 1, Max: 2}, Diagnosis{}, healthOK, ""},
		{Tenants{Count: 0, Max: 2}, down, healthDegraded, causeStore},
		{Tenants{Count: 1, Max: 2}, down, healthDegraded, causeStore},
		{Tenants{Count: 2, Max: 2}, down, healthDegraded, causeConfiguration},
		{Tenants{Count: 2, Max: 2}, Diagnosis{}, healthDegraded, causeConfiguration},
	} {
		if d := tc.tenants.diagnosis(tc.shared); d.Health != tc.health || d.Cause != tc.cause {
			t.Errorf("%d of %d, %q: got %+v", tc.tenants.Count, tc.tenants.Max, tc.shared.Cause, d)
		}
	}
}
