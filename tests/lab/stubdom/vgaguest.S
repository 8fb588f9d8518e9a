# SPDX-License-Identifier: LGPL-2.1-only
# A guest that only tries legacy VGA: booted in place of hvmloader (firmware_override), it writes and reads VGA ports and
# the text frame buffer, and says on Xen's debug port 0xe9 what came back.  What it wrote stays in the card.
#
# Xen starts it as it starts hvmloader: 32-bit protected mode, flat segments, no paging, interrupts off.
# It expects the card as PC firmware leaves it: text mode 3, the frame buffer at b8000.

	.intel_syntax noprefix

	.equ	DEBUG_PORT, 0xe9	# Source: xen/arch/x86/hvm/hvm.c, hvm_print_line
	.equ	MISC_WRITE, 0x3c2
	.equ	MISC_READ, 0x3cc
	.equ	COLOUR, 0x67		# mode 3's miscellaneous register: the CRT controller answers at 3d4
	.equ	MONO, 0x66		# the same with bit 0 clear: it answers at 3b4
	.equ	CURSOR_HIGH, 0x0e	# two of its registers, 8 bits each, of no consequence for what is shown
	.equ	CURSOR_LOW, 0x0f
	.equ	FRAME_BUFFER, 0xb8000
	.equ	WHITE, 0x07

	.text
	.globl	_start
_start:
	cld
	mov	esp, offset stack_top

	mov	dx, MISC_WRITE
	mov	al, COLOUR
	out	dx, al
	mov	dx, MISC_READ
	in	al, dx
	mov	esi, offset say_misc
	call	report

	mov	dx, 0x3d4
	mov	al, CURSOR_LOW
	mov	ah, 0xa5
	call	write_then_read
	mov	esi, offset say_colour
	call	report

	mov	dx, MISC_WRITE
	mov	al, MONO
	out	dx, al
	mov	dx, 0x3b4
	mov	al, CURSOR_HIGH
	mov	ah, 0x5a
	call	write_then_read
	mov	esi, offset say_mono
	call	report
	mov	dx, MISC_WRITE
	mov	al, COLOUR
	out	dx, al

	mov	esi, offset text
	mov	edi, FRAME_BUFFER
	mov	ah, WHITE
write_text:
	lodsb
	test	al, al
	jz	read_text
	mov	[edi], ax
	add	edi, 2
	jmp	write_text
read_text:
	mov	esi, offset say_buffer
	call	print
	mov	edi, FRAME_BUFFER
	mov	ecx, offset text_end - text
next_cell:
	mov	al, [edi]
	call	print_printable
	add	edi, 2
	loop	next_cell
	mov	esi, offset say_end
	call	print

	# Asleep for ever, and not with interrupts off: Xen would take that for a shutdown.
	mov	al, 0xff
	out	0x21, al
	out	0xa1, al
	sti
asleep:	hlt
	jmp	asleep

# Index al, value ah, to the index and data ports at dx; the register's value in al.
write_then_read:
	out	dx, al
	inc	dx
	mov	al, ah
	out	dx, al
	in	al, dx
	ret

# The text at esi, al in hex, and a new line.
report:
	mov	bl, al
	call	print
	mov	al, bl
	shr	al, 4
	call	digit
	mov	al, bl
	and	al, 0x0f
	call	digit
	mov	al, '\n'
	out	DEBUG_PORT, al
	ret
digit:
	add	al, '0'
	cmp	al, '9'
	jbe	1f
	add	al, 'a' - '0' - 10
1:	out	DEBUG_PORT, al
	ret

# The text at esi, up to its NUL.
print:
	lodsb
	test	al, al
	jz	1f
	out	DEBUG_PORT, al
	jmp	print
1:	ret

# al, or a dot in place of what a log cannot show.
print_printable:
	cmp	al, ' '
	jb	1f
	cmp	al, '~'
	jbe	2f
1:	mov	al, '.'
2:	out	DEBUG_PORT, al
	ret

say_misc:	.asciz	"vgaguest: misc="
say_colour:	.asciz	"vgaguest: crtc-3d5="
say_mono:	.asciz	"vgaguest: crtc-3b5="
say_buffer:	.asciz	"vgaguest: b8000="
say_end:	.asciz	"\nvgaguest: end\n"
text:		.ascii	"xlplug was here"
text_end:	.byte	0

	.bss
	.align	16
	.skip	4096
stack_top:
