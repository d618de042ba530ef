package transform

// PresetName is the word for a vendor.
type PresetName string
