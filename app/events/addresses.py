"""Addresses that no endpoint may have: link-local ones, at which clouds give out the credentials of a machine."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

#: Leads to an IPv4 address, its last four bytes, where a network translates (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")


def is_link_local(host: str) -> bool:
    """Say whether a text is a link-local address, in whichever way it is written; a name is none."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return _within_ipv6(address).is_link_local


def _within_ipv6(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _TRANSLATED:
            return IPv4Address(address.packed[-4:])
    return address
