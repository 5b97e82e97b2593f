package tlsx

import "time"

// SetClock gives a source another clock, by which it has just looked.
func (s *Source) SetClock(now func() time.Time) { s.now, s.looked = now, now() }
