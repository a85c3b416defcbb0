"""The network interface through which this machine reaches another one."""

import ipaddress
import socket
import struct
from contextlib import suppress

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def own_address(host: str) -> str:
    """This machine's IPv4 address on its way to `host`; "" where there is no way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 1))  # of datagrams: chooses the way, sends nothing
            return probe.getsockname()[0]
    except OSError:
        return ""


def is_of_this_machine_alone(address: str) -> bool:
    """Whether no other machine can reach an address of `own_address`."""
    return not address or ipaddress.ip_address(address).is_loopback


def interface_of(address: str) -> str:
    """The name of the interface that has an IPv4 address; "" where that cannot be found."""
    try:
        from fcntl import ioctl
    except ImportError:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                found = ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return ""
