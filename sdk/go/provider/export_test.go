package provider

// Stop lets tests end a server with another limit.
var Stop = stop
