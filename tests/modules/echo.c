/* A module in C, on the distribution's libc: answers each message with the one before it, which it has kept as a record. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHANNEL = 3, RECORDS = 4, LONGEST = 64 };

/* Asks the record store; returns the length of the value, or -1. */
static ssize_t ask(char operation, const char *value, size_t length, char *answer)
{
    char message[LONGEST + 6] = { operation, 4, 'l', 'a', 's', 't' };
    memcpy(message + 6, value, length);
    if (write(RECORDS, message, 6 + length) < 0)
        return -1;
    ssize_t got = read(RECORDS, message, sizeof message);
    if (got < 1 || message[0] != 0)
        return -1;
    memcpy(answer, message + 1, got - 1);
    return got - 1;
}

int main(int argc, char **argv)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0 || now.tv_sec < 1000000000)
        fprintf(stderr, "has no clock\n");
    printf("ready as %s %s, %d words\n", argv[0], argc > 1 ? argv[1] : "", argc);
    fflush(stdout);
    for (;;) {
        char *message = malloc(LONGEST), before[LONGEST], answer[3 * LONGEST];
        ssize_t length = message ? read(CHANNEL, message, LONGEST) : -1;
        if (length < 0)
            return 1;
        ssize_t kept = ask(1, "", 0, before);
        if (kept < 0)
            kept = sprintf(before, "none");
        if (ask(2, message, length, answer) != 0)
            fprintf(stderr, "cannot keep it\n");
        int total = sprintf(answer, "%.*s after %.*s", (int)length, message, (int)kept, before);
        if (write(CHANNEL, answer, total) != total)
            return 1;
        free(message);
    }
}
