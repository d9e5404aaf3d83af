package status

import "time"

// minSkew is the difference of two clocks from which tokens may be refreshed too late.
const minSkew = 2 * time.Second

// diagnoseSharing returns what keeps this replica from sharing its token. Its Health is empty if nothing does. None of it
// makes a request fail.
func diagnoseSharing(s Sharing) Diagnosis {
	switch {
	case !s.On:
		return Diagnosis{}
	case s.Store.down():
		summary, advice := ExplainStore(s.Store)
		return Diagnosis{healthDegraded, causeStore, summary, advice}
	case s.Unopened != "":
		return Diagnosis{healthDegraded, causeConfiguration,
			"This replica cannot open what another replica has left in the store, because " + WhyUnopened(s.Unopened) + ". It fetches its own tokens.",
			AdviceUnopened(s.Unopened)}
	case s.Skew > minSkew:
		return Diagnosis{healthDegraded, causeConfiguration,
			"The clock of another replica is " + Lasting(s.Skew) + " ahead of the clock of this one.",
			"Set the clocks of all machines by NTP. Otherwise, this replica refreshes the tokens of others too late."}
	}
	return Diagnosis{}
}

// ExplainStore returns what it means that a store does not work, and what to do.
func ExplainStore(s Store) (summary, advice string) {
	return "The store of shared tokens does not work. " + sentence(s.LastError) + " This replica fetches its own tokens.",
		"No request fails because of this. Correct the store's options or its server. The command tokens check tests the store."
}

// WhyUnopened completes a sentence with "because", for each reason why this replica cannot open what another replica has
// left: "key", "version" or "forged".
func WhyUnopened(reason string) string {
	switch reason {
	case "key":
		return "it is sealed with a key that this replica does not have"
	case "version":
		return "it is not of this version of token-proxy"
	default:
		return "it is damaged, or the other replica configures the credential differently"
	}
}

// AdviceUnopened returns what to do for each of these reasons.
func AdviceUnopened(reason string) string {
	switch reason {
	case "key":
		return "Give all replicas the same keys. While a key is replaced, each replica needs both keys."
	case "version":
		return "Run the same version of token-proxy in all replicas."
	default:
		return "Configure the credential alike in all replicas, down to the names of its files. If it is alike, find out what else writes into the store."
	}
}
