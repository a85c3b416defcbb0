"""Find the network interface that reaches another machine."""

import ipaddress
import socket
import struct
from contextlib import suppress

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def own_address(host: str) -> str:
    """This machine's IPv4 address on the route to `host`; "" without a route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 1))  # UDP: selects the route, sends nothing
            return probe.getsockname()[0]
    except OSError:
        return ""


def is_of_this_machine_alone(address: str) -> bool:
    """Whether an address of `own_address` is empty or loopback, so that other machines cannot reach it."""
    return not address or ipaddress.ip_address(address).is_loopback


def interface_of(address: str) -> str:
    """The name of the interface with this IPv4 address; "" if unknown."""
    try:
        from fcntl import ioctl
    except ImportError:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without IPv4 address
                found = ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return ""
