package wire

// Parts, on a dead letter whose body was too large to be stored with its
// envelope. They never leave their transport.
const (
	// Parts is in how many parts the body lies beside the letter.
	Parts = "Holdfast-Parts"
	// PartSize is how many bytes each part has but the last.
	PartSize = "Holdfast-Part-Size"
	// PartsSHA256 is the hash of the whole body, in hexadecimal.
	PartsSHA256 = "Holdfast-Parts-Sha256"
)
