/* What the C library makes of names: a line for each name and family, "NAME any|inet|inet6 ADDRESS..." or the error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

static const char *word(int error)
{
    switch (error) {
    case EAI_NONAME: return "NONAME";
    case EAI_NODATA: return "NODATA";
    case EAI_AGAIN: return "AGAIN";
    case EAI_FAIL: return "FAIL";
    default: return "OTHER";
    }
}

static void look_up(const char *name, int family, const char *label)
{
    struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM };
    struct addrinfo *found = NULL;
    int error = getaddrinfo(name, NULL, &hints, &found);
    printf("%s %s", name, label);
    if (error)
        printf(" %s", word(error));
    for (struct addrinfo *each = error ? NULL : found; each; each = each->ai_next) {
        char text[INET6_ADDRSTRLEN] = "?";
        const void *address = each->ai_family == AF_INET6
            ? (const void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr
            : (const void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr;
        inet_ntop(each->ai_family, address, text, sizeof text);
        printf(" %s", text);
    }
    printf("\n");
    if (!error)
        freeaddrinfo(found);
}

int main(int count, char **names)
{
    for (int at = 1; at < count; at++) {
        look_up(names[at], AF_UNSPEC, "any");
        look_up(names[at], AF_INET, "inet");
        look_up(names[at], AF_INET6, "inet6");
    }
    return 0;
}
