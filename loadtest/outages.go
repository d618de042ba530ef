package main

import (
	"context"
	"net/http"
	"slices"
	"time"

	"introspectd/internal/devissuer"
)

func issuerDown(_ context.Context, w *world) error {
	w.issuer.down()
	return nil
}

func issuerUp(_ context.Context, w *world) error {
	w.issuer.Fail(devissuer.None)
	w.issuer.down() // no connection is left over from before
	return w.issuer.up()
}

func issuerHangs(_ context.Context, w *world) error {
	w.issuer.Fail(devissuer.Hang)
	return nil
}

// withoutIssuer has every replica look for keys, in vain, and asks about a
// token under a key that it can't find.
func withoutIssuer(ctx context.Context, w *world) error {
	for _, r := range w.replicas {
		t := w.deck.stranger()
		e := w.ask(ctx, r, t)
		took := e.answered.Sub(e.asked)
		switch {
		case ctx.Err() != nil:
			return nil // the step was shorter than the answer
		case e.err != nil:
			w.row.broken("an unknown kid: %v", e.err)
		case e.status != http.StatusOK || string(e.body) != inactive:
			w.row.broken("an unknown kid: got %d %s, want %s", e.status, e.body, inactive)
		default:
			w.row.note("%s refused an unknown kid after %s", r.name, took.Round(time.Millisecond))
		}
	}
	w.refresh(ctx)
	return nil
}

// killReplica ends a replica as a crash would and starts it again while the
// issuer is away: its keys have to come from Redis or from its state.
func killReplica(ctx context.Context, w *world) error {
	w.issuer.down()
	r := w.replicas[0]
	r.kill()
	began := time.Now()
	if err := r.launch(); err != nil {
		return err
	}
	if err := w.firstAnswer(ctx, r, began); err != nil {
		return err
	}
	if err := r.ready(ctx); err != nil {
		return err
	}
	w.row.note("%s was ready %s after its start, with the issuer away", r.name, time.Since(began).Round(time.Millisecond))
	return w.issuer.up()
}

// firstAnswer waits until a replica that starts takes a good token for good.
// Until then it may say that it can't tell, and nothing else.
func (w *world) firstAnswer(ctx context.Context, r *replica, began time.Time) error {
	for time.Since(began) < startPatience {
		for _, t := range slices.Concat(w.deck.revoked[:min(1, len(w.deck.revoked))], w.deck.known[:1]) {
			e := w.ask(ctx, r, t)
			switch {
			case e.err != nil || e.status == http.StatusServiceUnavailable:
			case e.status != http.StatusOK || !t.rightly(e.body, e.asked, e.answered):
				w.row.broken("%s after its start: a %s token: %d %s", r.name, t.kind, e.status, e.body)
				return nil
			case t.kind == known:
				w.row.note("%s judged its first token %s after its start", r.name, e.answered.Sub(began).Round(time.Millisecond))
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	w.row.broken("%s judged no token within %s of its start", r.name, startPatience)
	return nil
}

// drainReplica ends a replica in order, and starts it again.
func drainReplica(ctx context.Context, w *world) error {
	r := w.replicas[0]
	began := time.Now()
	code, err := r.terminate(ctx)
	if err != nil {
		return err
	}
	if code != 0 {
		w.row.broken("%s: exit status %d after SIGTERM, want 0", r.name, code)
	}
	w.row.note("%s ended %s after SIGTERM", r.name, time.Since(began).Round(time.Millisecond))
	return r.start(ctx)
}
