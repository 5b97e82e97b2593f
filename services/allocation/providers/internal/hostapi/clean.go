package hostapi

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWords is how much of what a host says goes into a message, in bytes.
const maxWords = 300

// hidden stands in for what may be a secret.
const hidden = "…"

// A host may repeat in its complaint what it was sent. What is as long as a token is taken for one.
var (
	secretive = regexp.MustCompile(`[A-Za-z0-9_.\-+/=]{40,}`)
	bearers   = regexp.MustCompile(`(?i)\b(?:bearer|basic)[ :]+(?:[A-Za-z0-9_.\-+/=]*[0-9=][A-Za-z0-9_.\-+/=]*|[A-Za-z0-9_.\-+/=]{20,})`)
)

// Clean makes one line of what a host says, without what may be a secret, and not too long.
func Clean(text string) string {
	var out strings.Builder
	from := 0
	for _, at := range imageNames(text) {
		out.WriteString(hide(text[from:at.from]))
		out.WriteString(text[at.from:at.to])
		from = at.to
	}
	out.WriteString(hide(text[from:]))
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(out.String(), "\uFFFD"), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(text) > maxWords {
		text = strings.ToValidUTF8(text[:maxWords], "") + hidden
	}
	return text
}

func hide(text string) string {
	return secretive.ReplaceAllString(bearers.ReplaceAllString(text, hidden), hidden)
}

var (
	// reference is the name of an image in a registry, with its tag and its digest.
	reference = regexp.MustCompile(`((?:[a-z0-9-]+\.)+[a-z]{2,}(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+)(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?`)
	// word is a part of a name that somebody chose: not what a machine drew.
	word = regexp.MustCompile(`^(?:[a-z]{1,20}[0-9]{0,6}|[0-9]{1,12}|[a-z0-9]{1,4})$`)
)

// maxNumbered is how many parts of an image's name may have digits. Names have few; a secret with hyphens has them all over.
const maxNumbered = 4

type span struct{ from, to int }

// imageNames finds what is shown however long it is: names of images, without which nobody finds out why one is not pulled, and their digests. Tags are as other
// words: one that is as long as a token is hidden. Nothing else has a registry's domain in front, no capital letters, and only words in it; the digest is public
// once there is such a name before it.
func imageNames(text string) []span {
	var names []span
	for _, at := range reference.FindAllStringSubmatchIndex(text, -1) {
		if !apart(text, at[0], at[1]) || !wordy(text[at[2]:at[3]]) {
			continue
		}
		names = append(names, span{at[2], at[3]})
		if at[4] >= 0 {
			names = append(names, span{at[4], at[5]})
		}
	}
	return names
}

// apart reports whether a part of a text is no part of something longer that may be a secret.
func apart(text string, from, to int) bool {
	const joins = "_-+/=%"
	before, _ := utf8.DecodeLastRuneInString(text[:from])
	after, _ := utf8.DecodeRuneInString(strings.TrimPrefix(text[to:], ".")) // a sentence may end with it
	joined := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(joins, r) }
	return !joined(before) && before != '.' && !joined(after) && after != '.'
}

// wordy reports whether an image's name consists of words.
func wordy(name string) bool {
	numbered := 0
	for _, part := range strings.FieldsFunc(name, func(r rune) bool { return strings.ContainsRune("./:_-", r) }) {
		if !word.MatchString(part) {
			return false
		}
		if strings.ContainsAny(part, "0123456789") {
			numbered++
		}
	}
	return numbered <= maxNumbered
}
