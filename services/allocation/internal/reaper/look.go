package reaper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

// seen is what a look saw. Whatever the provider has, it is bounded.
type seen struct {
	servers, orphans int
	entries, records int      // how many entries of the list, and records of allocations, were passed over
	why              string   // why the first of them was
	found            []Orphan // at most maxFound
	held             int
}

// problem says for people why the provider was not looked at, or not wholly; empty: it was.
func (s *seen) problem(err error) string {
	var all []string
	if err != nil {
		all = append(all, err.Error())
	}
	if s.entries+s.records > 0 {
		all = append(all, fmt.Sprintf("passed over %d entries of its list that cannot be servers and %d records of allocations that cannot be read; the first: %s", s.entries, s.records, s.why))
	}
	if len(s.found) == maxFound && s.orphans > maxFound {
		all = append(all, fmt.Sprintf("%d servers are orphans, and the first %d are listed", s.orphans, maxFound))
	}
	return strings.Join(all, "; ")
}

// look deals with one provider. It goes through the list twice, so that it need not be kept: to count, which says whether people must decide, and if there is an
// orphan, to deal with it.
func (r *Reaper) look(ctx context.Context, p Provider, o Options) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var s seen
	look := uuid.NewString()
	err := r.orphans(ctx, p, o, &s, func(orphans []Orphan) error {
		s.orphans += len(orphans)
		if o.DryRun {
			return nil
		}
		return r.note(ctx, p.Name, look, orphans)
	})
	if err != nil {
		return s, err
	}
	r.say(ctx, p.Name, s, o)
	if !o.DryRun {
		if err := r.cfg.Store.Noted(ctx, p.Name, look); err != nil {
			return s, err
		}
	}
	if s.orphans == 0 {
		return s, nil
	}
	held := !o.Force && s.orphans > fewOrphans && s.orphans > s.servers/2
	err = r.orphans(ctx, p, o, new(seen), func(orphans []Orphan) error { return r.deal(ctx, p, o, held, orphans, &s) })
	if s.held > 0 && !o.DryRun {
		r.cfg.Log.ErrorContext(ctx, "people must decide whether these servers are released: so many belong to nobody, or their instances are not known at all", "provider", p.Name, "servers", s.held)
	}
	return s, err
}

// note notes that servers are orphans.
func (r *Reaper) note(ctx context.Context, provider, look string, orphans []Orphan) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.cfg.Store.Note(ctx, provider, look, attempts(orphans))
}

// deal deals with some orphans.
func (r *Reaper) deal(ctx context.Context, p Provider, o Options, held bool, orphans []Orphan, s *seen) error {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	since, now, err := r.cfg.Store.Since(callCtx, p.Name, attempts(orphans))
	cancel()
	if err != nil {
		return err
	}
	for n := range orphans {
		orphan := &orphans[n]
		orphan.Since = since[n]
		r.decide(ctx, p, orphan, now, o, held)
		if orphan.Action == Held {
			s.held++
		}
		if !o.DryRun {
			r.count.WithLabelValues(p.Name, orphan.Action.String()).Inc()
		}
		if len(s.found) < maxFound {
			s.found = append(s.found, *orphan)
		}
	}
	return nil
}

func attempts(orphans []Orphan) []string {
	list := make([]string, len(orphans))
	for n := range orphans {
		list[n] = orphans[n].Attempt
	}
	return list
}

// orphans goes through a provider's list, page by page, and hands on the orphans in it, at most a chunk at once.
func (r *Reaper) orphans(ctx context.Context, p Provider, o Options, s *seen, do func([]Orphan) error) error {
	for page := ""; ; {
		if o.goOn != nil && !o.goOn(ctx) {
			return errors.New("another replica has taken over")
		}
		got, err := r.page(ctx, p, page)
		if err != nil {
			return err
		}
		s.servers += len(got.Servers)
		for _, why := range got.Nonsense {
			s.entries++
			s.because(why)
		}
		for some := range slices.Chunk(got.Servers, chunk) {
			orphans, err := r.judge(ctx, p, some, s)
			if err != nil {
				return err
			}
			if len(orphans) == 0 {
				continue
			}
			if err := do(orphans); err != nil {
				return err
			}
		}
		switch got.Next {
		case "":
			return nil
		case page:
			return errors.New("the provider says that a page of its list comes after itself")
		}
		page = got.Next
	}
}

func (r *Reaper) page(ctx context.Context, p Provider, page string) (allocator.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	return p.Host.List(ctx, page)
}

// judge returns those that no allocation knows, or only one that is done with them. Of one whose record cannot be read nobody knows: it stays.
func (r *Reaper) judge(ctx context.Context, p Provider, listed []allocator.Listed, s *seen) ([]Orphan, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ids := make([]string, len(listed))
	for n := range listed {
		ids[n] = listed[n].Attempt
	}
	known, err := r.cfg.Store.Loads(ctx, ids)
	broken, err := allocator.Unreadable(err)
	if err != nil {
		return nil, err
	}
	var orphans []Orphan
	for n, l := range listed {
		o := Orphan{Provider: p.Name, Listed: l}
		switch a := known[n]; {
		case broken[l.Attempt] != nil:
			s.records++
			s.because(broken[l.Attempt].Error())
			continue
		case a.Rev == 0:
			o.Message = "no allocation is known for it"
		case a.State.Final():
			o.Message = "its allocation is " + a.State.String()
		case a.Provider != p.Name:
			o.Message, o.elsewhere = fmt.Sprintf("its allocation is at provider %q", a.Provider), true
		default:
			continue
		}
		orphans = append(orphans, o)
	}
	return orphans, nil
}

// maxWhy bounds what is said of what was passed over, in bytes.
const maxWhy = 256

// because keeps the first reason.
func (s *seen) because(why string) {
	if s.why == "" {
		s.why = strings.ToValidUTF8(why[:min(len(why), maxWhy)], "")
	}
}

// say counts what was passed over, and logs it when it has become more: once, not in each look.
func (r *Reaper) say(ctx context.Context, provider string, s seen, o Options) {
	if o.DryRun {
		return
	}
	r.passed.WithLabelValues(provider, "entry").Add(float64(s.entries))
	r.passed.WithLabelValues(provider, "record").Add(float64(s.records))
	r.mu.Lock()
	more := s.entries+s.records > r.said[provider]
	r.said[provider] = s.entries + s.records
	r.mu.Unlock()
	if more {
		r.cfg.Log.ErrorContext(ctx, "servers are passed over, as nobody can say to whom they belong; they stay", "provider", provider,
			"entries", s.entries, "records", s.records, "first", s.why)
	}
}

// decide does with an orphan what has to be done.
func (r *Reaper) decide(ctx context.Context, p Provider, o *Orphan, now time.Time, how Options, held bool) {
	if now.Sub(o.Since) < grace {
		o.set(Waited, "it is released when it has been an orphan for "+grace.String())
		return
	}
	verdict, err := r.ask(ctx, p.Name, o, how.DryRun)
	switch {
	case err != nil:
		o.set(Failed, "its instance cannot be asked: "+err.Error())
	case verdict == allocator.Unknown && !how.Force:
		o.set(Held, "its instance is not known at all, so its record may be what is lost")
	case verdict != allocator.Abandoned && verdict != allocator.Unknown:
		o.set(Kept, "its instance wants it")
	case held:
		o.set(Held, "so many are orphans at once that their records may be what is lost")
	case how.DryRun:
		o.set(Waited, "it would be released")
	default:
		r.release(ctx, p, o)
	}
}

// ask asks the instance whether it wants the server. If it has not decided, it is told of the server by that, and may yet have it; but not in a dry run, and not
// if it has, or gets, another one of another provider.
func (r *Reaper) ask(ctx context.Context, provider string, o *Orphan, dryRun bool) (allocator.Verdict, error) {
	a, ok := allocator.Found(provider, o.Listed)
	if !ok {
		return allocator.Abandoned, nil // no attempt of any instance has such an id
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if dryRun || o.elsewhere {
		return r.cfg.Instances.Ask(ctx, a.InstanceID, a.ID)
	}
	return r.cfg.Instances.Report(ctx, a)
}

func (r *Reaper) release(ctx context.Context, p Provider, o *Orphan) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	gone, err := p.Host.Release(ctx, o.Attempt, o.ExternalID)
	switch {
	case err != nil:
		o.set(Failed, "it cannot be released: "+err.Error())
		r.cfg.Log.WarnContext(ctx, "a server that belongs to nobody cannot be released; trying again", "provider", p.Name, "attempt", o.Attempt, "external_id", o.ExternalID, "error", err)
		return
	case gone:
		o.set(Released, "it is gone")
	default:
		o.set(Released, "it is stopping")
	}
	r.cfg.Log.WarnContext(ctx, "a server that belonged to nobody was released", "provider", p.Name, "attempt", o.Attempt, "external_id", o.ExternalID, "reason", o.Message)
}

// set says what was done, after why it is an orphan.
func (o *Orphan) set(a Action, why string) { o.Action, o.Message = a, o.Message+"; "+why }
