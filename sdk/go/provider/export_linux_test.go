package provider

// Hold lets tests lock a file as a plugin does that starts.
var Hold = hold
