/* What first.c and program.c, which are one program, share. */
#ifndef ERA_FIRST_H
#define ERA_FIRST_H

#include "steps.h"

enum { MAX_GROUPS = 16 };

/* A number in decimal digits. */
int number(const char *text);

/* Tell the server which step of making the box failed, and by which error (a negative errno). */
void say_failed(int fd, const char *step, long error);

/* The seccomp program in a file; a negative errno when there is none. */
long read_filter(int fd, struct filter *filter);

/* The program's process; `argv` as program.c says. */
void be_program(char **argv, char **env);

#endif
