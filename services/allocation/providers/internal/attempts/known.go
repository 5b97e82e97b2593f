package attempts

// maxKnown is how many servers are remembered.
const maxKnown = 50_000

// Known are the servers that this process knows of from its own calls, by their names at the host: for hosts that have no place for a mark that can be read
// again. The zero value is empty. It is safe for concurrent use.
type Known struct{ byName Recent[origin] }

// origin says whose a server is.
type origin struct{ deployment, attempt string }

// Learn notes whose server has the name, and reports whether that was known before. What it was said first stays.
func (k *Known) Learn(name, deployment, attempt string) (before bool) {
	return k.byName.update(maxKnown, name, func(o *origin) {
		if *o == (origin{}) {
			*o = origin{deployment, attempt}
		}
	})
}

// Attempt returns the attempt of the deployment's server with the name; false if it is none of which this process knows.
func (k *Known) Attempt(name, deployment string) (attempt string, ok bool) {
	o, ok := k.byName.Get(name)
	return o.attempt, ok && o.deployment == deployment
}
