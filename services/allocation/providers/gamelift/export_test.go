package gamelift

import "time"

// CredentialsFile is a file of credentials.
type CredentialsFile = credentialsFile

// Hasten has a provider ask as often as that, which its configuration does not allow.
func Hasten(p *Provider, soon, sweep time.Duration) { p.soon, p.cfg.Sweep = soon, sweep }
