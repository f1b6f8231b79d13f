package enroll

// CanonicalKeySet is parseKeySet, for its fuzz target.
func CanonicalKeySet(data []byte) ([]byte, error) {
	_, canonical, err := parseKeySet(data)
	return canonical, err
}
