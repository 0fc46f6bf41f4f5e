/*
 * Stands before the kernel and makes it a lesser one: what the environment variable LACKS names is asked of a part that
 * no kernel has, so that the refusal is the kernel's own.
 *
 *   nf_tables   messages to its subsystem of nfnetlink (10) go to one that nobody registers
 *   helpers     the names of conntrack helpers become names that no module has
 */
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const helpers[] = {"netbios-ns", "snmp", "amanda", "sip", "tftp", "ftp", "pptp", "irc", "sane",
				      "Q.931", "RAS", "H.245"};
static char copy[1 << 20];

static void lose_tables(struct nlmsghdr *message)
{
	struct nfgenmsg *header = (void *)(message + 1);

	if (message->nlmsg_type >> 8 == NFNL_SUBSYS_NFTABLES)
		message->nlmsg_type = 0x7f << 8 | (message->nlmsg_type & 0xff);
	if (message->nlmsg_type == NFNL_MSG_BATCH_BEGIN || message->nlmsg_type == NFNL_MSG_BATCH_END)
		header->res_id = 0; /* NFNL_SUBSYS_NONE: 0x7f would be refused as out of range */
}

static void lose_helpers(struct nlmsghdr *message)
{
	if (message->nlmsg_type >> 8 != NFNL_SUBSYS_CTNETLINK && message->nlmsg_type >> 8 != NFNL_SUBSYS_CTNETLINK_EXP)
		return;
	for (size_t i = 0; i < sizeof(helpers) / sizeof(*helpers); i++) {
		char *name = memmem(message, message->nlmsg_len, helpers[i], strlen(helpers[i]) + 1);

		if (name)
			*name = 'X';
	}
}

/* All that knock-daemon sends goes to netlink sockets. */
ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
	const char *lacks = getenv("LACKS");

	if (!lacks || length > sizeof(copy))
		abort();
	memcpy(copy, buffer, length);
	for (size_t at = 0; at + sizeof(struct nlmsghdr) <= length;) {
		struct nlmsghdr *message = (void *)(copy + at);

		if (message->nlmsg_len < sizeof(*message) || message->nlmsg_len > length - at)
			break;
		if (strcmp(lacks, "nf_tables") == 0)
			lose_tables(message);
		else
			lose_helpers(message);
		at += NLMSG_ALIGN(message->nlmsg_len);
	}
	return syscall(SYS_sendto, fd, copy, length, flags, NULL, 0);
}
