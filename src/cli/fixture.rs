//! A configuration for tests of commands.

/// A director with a pool of three backends with TID ranges.
pub(super) const FLEET: &str = "[director]\nname = \"d1\"\naddress = \"10.0.1.11\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
    io = { kind = \"af_xdp\", interface = \"eth0\" }\n\
    [[vip]]\naddress = \"192.0.2.69\"\nservice = \"tftp\"\npool = \"boot\"\n\
    [[pool]]\nname = \"boot\"\nbackends = [\n\
    { name = \"t1\", address = \"10.0.2.21\", tid_range = \"20010-20019\" },\n\
    { name = \"t2\", address = \"10.0.2.22\", tid_range = \"20020-20029\" },\n\
    { name = \"t3\", address = \"10.0.2.23\", tid_range = \"20030-20039\" } ]\n";
